"""What can go wrong in the trainer.

TrainerError
├── ExportError       the network cannot be exported as a graph with external weights
└── CheckpointError   a checkpoint that does not fit the log, or cannot be read
"""


class TrainerError(Exception):
    """Root of the trainer's errors."""


class ExportError(TrainerError):
    """The network cannot be exported as a graph with external weights."""


class CheckpointError(TrainerError):
    """A checkpoint does not fit the log or the network, or cannot be read."""
