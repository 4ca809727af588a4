"""What a model's streams and their readers are called."""

from store.policy import MAIN

CONTROL = "control"
"""An entry here wakes everyone who waits for changes."""

AUDIT = "audit"
"""Every decision of a human or of the platform, in one order."""


def log_stream(model: str) -> str:
    """Predictions, shadow scores, feedback, cuts and ticks, in one order."""
    return f"{model}:log"


def outcome_stream(model: str) -> str:
    """What the join makes of the log: outcomes and cuts."""
    return f"{model}:outcomes"


def streams_of(model: str) -> tuple[str, ...]:
    return log_stream(model), outcome_stream(model)


def consumers_of(model: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of a model's consumers, and what those of its learners begin with."""
    exact = (
        join_consumer(model), controller_consumer(model), import_consumer(model), archive_consumer(model),
        profile_consumer(model), expectations_consumer(model), streaming_consumer(model),
        lines_consumer(model), takeover_consumer(model),
    )  # fmt: skip
    return exact, (learner_consumer(model, ""),)


def join_consumer(model: str) -> str:
    return f"join:{model}"


def controller_consumer(model: str) -> str:
    return f"controller:{model}"


def archive_consumer(model: str) -> str:
    return f"archive:{model}"


def profile_consumer(model: str) -> str:
    """Follows the learner, and remembers what the features of its outcomes were like."""
    return f"profile:{model}"


def expectations_consumer(model: str) -> str:
    """Whoever changes a model's expectations moves it: its position is their revision, its state what they are."""
    return f"expectations:{model}"


def streaming_consumer(model: str) -> str:
    """Keeps the snapshot of a model's streaming features."""
    return f"streaming:{model}"


def lines_consumer(model: str) -> str:
    """Whoever adds or ends a line moves it: its position is their revision, its state what lines there are."""
    return f"lines:{model}"


def takeover_consumer(model: str) -> str:
    """A line that becomes main moves it, so that who learned main before can go no further; its position counts them."""
    return f"takeover:{model}"


def compressed_line(line: str) -> str:
    """Where a learner that publishes its versions compressed as well puts those."""
    return f"{line}-compressed"


def import_consumer(model: str) -> str:
    """Whoever makes a new model moves it: of two at a time one can."""
    return f"import:{model}"


def learner_consumer(model: str, line: str = MAIN) -> str:
    return f"learner:{model}:{line}"
