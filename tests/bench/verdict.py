"""Whether a run's bounds hold, said in its last line."""

from dataclasses import dataclass
from typing import Literal

from rich.console import Console

console = Console(width=160)


@dataclass(frozen=True)
class Verdict:
    """A number of this run and what it is to be, over or under, or as much at most."""

    what: str
    number: float
    side: Literal["over", "under"]
    bound: float

    @property
    def holds(self) -> bool:
        return self.number >= self.bound if self.side == "over" else self.number <= self.bound

    def __str__(self) -> str:
        word = "holds" if self.holds else "does not hold"
        return f"{self.what} {self.number:.3g} (bound: {self.side} {self.bound:g}): {word}"


def say(*verdicts: Verdict) -> None:
    """Print each, in one line, and no colour that a log would garble."""
    console.print("; ".join(map(str, verdicts)), highlight=False, soft_wrap=True)
