"""The objectives' proper losses, and the losses of every row by them: log loss, cross-entropy, squared error."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from trainer.losses.loss import Loss


class PlainLoss(Loss):
    """The loss whose least expectation is the true probability, or the mean. Ranking learns relevance pointwise."""

    def __init__(self, objective: str) -> None:
        super().__init__()
        self._objective = objective

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self._of(logits, labels, "none")

    def mean(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self._of(logits, labels, "mean")

    def _of(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        if self._objective == "multiclass":
            return functional.cross_entropy(logits, labels, reduction=reduction)
        of: Callable[..., Tensor] = functional.mse_loss
        if self._objective == "binary":
            of = functional.binary_cross_entropy_with_logits
        return of(logits[:, 0], labels, reduction=reduction)
