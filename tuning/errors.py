"""What can go wrong in a search.

TrainerError
└── TuningError   nothing can be searched as asked, or a search cannot go on
"""

from trainer.errors import TrainerError


class TuningError(TrainerError):
    """Nothing can be searched as asked, or a search cannot go on; the text says what to do."""
