"""What a loss is: for each row how wrong its logits are."""

import torch
from torch import Tensor, nn


class Loss(nn.Module):
    """From logits float32 [rows, outputs] and labels [rows] (int64 classes, else float32) to losses float32 [rows].

    What a loss remembers of the stream is in its buffers, and so in the checkpoint; they must not change their shapes.
    """

    def observe(self, labels: Tensor) -> None:
        """Take in a micro-batch's labels, before it is learned."""

    def mean(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean over rows that all count alike."""
        return self(logits, labels).mean()


def by_class(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits [rows, classes] and labels int64 [rows]; those of a binary objective, [rows, 1], as two classes.

    >>> by_class(torch.tensor([[2.0]]), torch.tensor([1.0]))
    (tensor([[0., 2.]]), tensor([1]))
    """
    if logits.shape[1] > 1:
        return logits, labels
    return torch.cat([torch.zeros_like(logits), logits], dim=1), labels.long()
