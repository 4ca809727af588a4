"""What can go wrong in the trainer.

TrainerError
├── ExportError       the network cannot be exported as a graph with external weights
├── CheckpointError   a checkpoint that does not fit the log, or cannot be read
├── CompressionError  a version cannot be compressed
│   └── NotApplicable by this method: its network, or what was logged, does not allow it
├── LineEnded         a line is retired, or has become main: its learner has nothing to do
├── TakenOver         a line has become main: main's learner starts over with that one's state
├── Irreproducible    a version cannot be learned again with the same result
└── RetrainingError   nothing can be retrained from the archive as asked
"""


class TrainerError(Exception):
    """Root of the trainer's errors."""


class ExportError(TrainerError):
    """The network cannot be exported as a graph with external weights."""


class CheckpointError(TrainerError):
    """A checkpoint does not fit the log or the network, or cannot be read."""


class CompressionError(TrainerError):
    """A version cannot be compressed, or a compressed graph does not fit the weights."""


class NotApplicable(CompressionError):
    """A method does not apply to a version; the text says why."""


class LineEnded(TrainerError):
    """A line is retired, or has become main: its learner has nothing to do."""


class TakenOver(TrainerError):
    """A line has become main: main's learner starts over with its way and its state."""


class Irreproducible(TrainerError):
    """A version cannot be learned again here with the same result; the text names each reason."""


class RetrainingError(TrainerError):
    """What was asked for cannot be retrained from the archive; the text says why."""
