"""The expected cost of an answer drawn by the scores."""

import torch
from torch import Tensor

from store.learning import CostMatrix
from trainer.losses.loss import Loss, by_class


class CostMatrixLoss(Loss):
    """sum over answers j of costs[true, j] p[j]: the risk that Elkan ("The Foundations of Cost-Sensitive Learning", IJCAI 2001,
    equation 1) minimises by one answer, for an answer drawn by the scores.

    It is linear in the scores, so the least expected cost is at the cheapest answer with certainty: scores are decisions, not
    probabilities. Who can weigh costs where answers are used does better with the plain loss.
    """

    costs: Tensor

    def __init__(self, settings: CostMatrix) -> None:
        super().__init__()
        self.register_buffer("costs", torch.tensor(settings.costs), persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        logits, labels = by_class(logits, labels)
        return (self.costs[labels] * torch.softmax(logits, dim=1)).sum(dim=1)
