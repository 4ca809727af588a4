"""Cross-entropy in which rare labels weigh more: the class-balanced loss by effective number."""

import torch
from torch import Tensor
from torch.nn import functional

from store.learning import ClassBalanced
from trainer.losses.loss import Loss, by_class


class ClassBalancedLoss(Loss):
    """The row's label c weighs w[c] = C E[c] / sum(E), with E[c] = (1 - beta) / (1 - beta ** n[c]), C classes, and n[c] the
    rows that c had so far, at least 1 (Cui, Jia, Lin, Song and Belongie, "Class-Balanced Loss Based on Effective Number of
    Samples", CVPR 2019, equation 2; weights sum to C as there).

    Learned by logits alone, the weights would bias the scores to w[c] p(c) / sum(w p). So log w is added to the logits while
    they are learned, and not when they are served: the least expected loss is then at the true probabilities, whatever w is.
    """

    counts: Tensor

    def __init__(self, settings: ClassBalanced, classes: int) -> None:
        super().__init__()
        self._beta = settings.beta
        self.register_buffer("counts", torch.zeros(classes, dtype=torch.float64))

    def observe(self, labels: Tensor) -> None:
        self.counts += torch.bincount(labels.long(), minlength=len(self.counts))

    def weights(self) -> Tensor:
        """What each class weighs, float32 [classes]."""
        effective = (1.0 - self._beta) / (1.0 - self._beta ** self.counts.clamp(min=1.0))
        return (effective * (len(effective) / effective.sum())).float()

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        logits, labels = by_class(logits, labels)
        weights = self.weights()
        return weights[labels] * functional.cross_entropy(logits + weights.log(), labels, reduction="none")
