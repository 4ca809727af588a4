"""What learning minimises, one loss per file. What is reported is always the plain one."""

from store.learning import ClassBalanced, CostMatrix, Focal, Plain
from store.spec import ModelRecord
from trainer.losses.class_balanced import ClassBalancedLoss
from trainer.losses.cost_matrix import CostMatrixLoss
from trainer.losses.focal import FocalLoss
from trainer.losses.loss import Loss
from trainer.losses.plain import PlainLoss


def loss_of(record: ModelRecord) -> Loss:
    """Return the loss that a model's declaration asks for."""
    match record.learning.loss:
        case Plain():
            return PlainLoss(record.objective)
        case ClassBalanced() as settings:
            return ClassBalancedLoss(settings, len(record.labels_known))
        case Focal() as settings:
            return FocalLoss(settings)
        case CostMatrix() as settings:
            return CostMatrixLoss(settings)


__all__ = ["ClassBalancedLoss", "CostMatrixLoss", "FocalLoss", "Loss", "PlainLoss", "loss_of"]
