"""Cross-entropy in which easy rows weigh less: the focal loss."""

import torch
from torch import Tensor

from store.learning import Focal
from trainer.losses.loss import Loss, by_class


class FocalLoss(Loss):
    """-a (1 - p) ** gamma log p, p being the score of the row's label (Lin, Goyal, Girshick, He and Dollár, "Focal Loss for
    Dense Object Detection", ICCV 2017, equations 4 and 5).

    The least expected loss is not at the true probabilities: with gamma above 0 scores are drawn towards the middle, and with
    an alpha other than 0.5 to a side. Their order stays that of the probabilities.
    """

    def __init__(self, settings: Focal) -> None:
        super().__init__()
        self._gamma = settings.gamma
        self._alpha = settings.alpha

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        logits, labels = by_class(logits, labels)
        log_p = torch.log_softmax(logits, dim=1)
        log_own = log_p.gather(1, labels[:, None])[:, 0]
        # What is left for the others, by their own scores: 1 - p loses its digits, and its gradient, where p is near 1.
        others = log_p.masked_fill(torch.nn.functional.one_hot(labels, log_p.shape[1]).bool(), -torch.inf)
        losses = -torch.exp(self._gamma * others.logsumexp(dim=1)) * log_own
        if self._alpha is not None:
            losses = losses * torch.where(labels == 1, self._alpha, 1.0 - self._alpha)
        return losses
