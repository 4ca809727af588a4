"""Torch's optimisers as declarations name them."""

from collections.abc import Iterable

import torch
from torch import nn

from store.learning import SGD, Adagrad, Adam, Learning


def optimiser_of(learning: Learning, parameters: Iterable[nn.Parameter], device: torch.device) -> torch.optim.Optimizer:
    """Return the optimiser that a declaration asks for; on the CPU in one pass over each tensor."""
    rate, decay, fused = learning.learning_rate, learning.weight_decay, device.type == "cpu"
    match learning.optimiser:
        case Adagrad():
            return torch.optim.Adagrad(parameters, lr=rate, weight_decay=decay, fused=fused)
        case Adam() as adam:
            kind = torch.optim.AdamW if adam.decoupled else torch.optim.Adam
            return kind(parameters, lr=rate, betas=(adam.beta1, adam.beta2), weight_decay=decay, fused=fused)
        case SGD() as sgd:
            return torch.optim.SGD(
                parameters, lr=rate, momentum=sgd.momentum, nesterov=sgd.nesterov, weight_decay=decay, fused=fused
            )
