"""What every account of an experiment can do."""

from typing import Any, Protocol

from store.policy import Experiment
from store.records import Failures, Outcome, Predictions, Rankings, Shadows
from store.spec import ModelRecord


class Account(Protocol):
    """The books of one experiment, from its first epoch on. Takes events in any order of arrival, each once."""

    def __init__(self, experiment: Experiment, record: ModelRecord, state: dict[str, Any] | None = None) -> None: ...

    def begin(self, experiment: Experiment, epoch: int) -> None:
        """From this epoch on the experiment's shares are these; the same ones again change nothing."""
        ...

    def predictions(self, record: Predictions) -> None: ...

    def failures(self, record: Failures) -> None: ...

    def shadows(self, record: Shadows) -> None: ...

    def rankings(self, record: Rankings) -> None: ...

    def outcome(self, outcome: Outcome) -> None: ...

    def close(self, now: float | None) -> None:
        """Let units whose time is over enter the sums. `now` is None where the model's clock is that of its events."""
        ...

    def units_of_step(self, experiment: Experiment) -> int:
        """How many units the candidate has had since the last change of shares."""
        ...

    def pack(self) -> dict[str, Any]:
        """Return the state, as msgpack can carry it; the constructor takes it back."""
        ...
