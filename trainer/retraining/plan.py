"""What is to be retrained, on what and how: all that decides the result, so that whoever works by it comes to the same."""

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field

from store.archived import Window
from store.errors import NotFound
from store.lines import seen_by
from store.names import compressed_line
from store.policy import MAIN
from store.protocols import Store
from store.requests import ASKED
from store.spec import MODEL_NAME, Learning, ModelRecord, ModelSpec, load_spec
from trainer.errors import RetrainingError


class Plan(BaseModel):
    """A retraining. `passes` is how often the window is gone through, beside the passes over each batch that the declaration
    asks for; `workers` share each batch. `parent` is the version to begin with, 0 for none, and `seen` how many outcomes its
    feature statistics stand for. `through` and `outcomes` hold the window still while the archive grows; `least` is how many
    there must be. `asked` names the request of drift that it answers, if one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    source: str
    learning: Learning
    folder: str
    since: datetime | None = None
    until: datetime | None = None
    through: str = ""
    outcomes: int = 0
    least: int = 0
    asked: str = ""
    passes: int = Field(default=1, ge=1)
    workers: int = Field(default=1, ge=1)
    device: Literal["cpu", "cuda"] = "cpu"
    parent: int = 0
    seen: int = 0
    line: str = "retrained"

    @property
    def rows(self) -> int:
        """Of a batch, all workers' together."""
        return self.learning.rows

    async def settled(self, store: Store) -> Self:
        """Return the plan with what follows from the archive and from the parent.

        Raises:
            NotFound: there is no such version, or its weights are not kept.
            RetrainingError: nothing can be retrained so.
        """
        if self.line in (MAIN, compressed_line(MAIN)):
            raise RetrainingError(f"line '{self.line}' is the trainer's: name another with --line")
        if not MODEL_NAME.fullmatch(self.line):
            raise RetrainingError(f"line {self.line[:80]!r}: use lower-case letters, digits, '.', '_' and '-', at most 63")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise RetrainingError("torch sees no GPU here: leave --device out to learn on the CPU")
        spec = self.spec()
        window = self.window(spec.record)
        if len(window) < self.workers:
            raise RetrainingError(f"{self.workers} workers cannot share {len(window)} outcomes")
        if len(window) < self.least:
            raise RetrainingError(f"{len(window)} outcomes are archived of {self._when}, and it takes {self.least}")
        seen = 0
        if self.parent:
            parent = await store.version(self.model, self.parent)
            if parent.spec != spec.record.digest or "method" in parent.lineage:
                raise RetrainingError(f"version {self.parent} is of another network: its weights cannot be learned on")
            await store.weights(self.model, self.parent)
            seen = await seen_by(store, parent)
        return self.model_copy(update={"through": window.last, "outcomes": len(window), "seen": seen})

    def spec(self) -> ModelSpec:
        """Raises SpecError."""
        spec = load_spec(self.source)
        labels = spec.labels
        if labels.kind == "corrected":  # in a window that is over each label is known, and nothing to be corrected
            labels = labels.model_copy(update={"kind": "at_window"})
        return replace(spec, learning=self.learning, labels=labels)

    def window(self, record: ModelRecord) -> Window:
        """Raises RetrainingError where there is nothing in it, or no longer all of it."""
        try:
            window = Window.of(Path(self.folder), record, self.since, self.until, self.through)
        except FileNotFoundError as error:
            raise RetrainingError(f"{error}; 'tidemill archive {self.model}' says what there is") from None
        if not len(window):
            raise RetrainingError(
                f"no prediction of model '{self.model}' in {self._when} has an archived outcome; "
                f"'tidemill archive {self.model}' says what there is"
            )
        if self.outcomes and len(window) != self.outcomes:
            raise RetrainingError(f"the archive had {self.outcomes} outcomes of {self._when}, and now has {len(window)}")
        return window

    @property
    def lineage(self) -> dict[str, Any]:
        """What a version that comes of this keeps of it, beside hyperparameters and environment."""
        window = self.model_dump(mode="json", include={"since", "until", "through", "outcomes"})
        return {
            "cut": f"retrained on {self._when}" + (" because of drift" if self.asked else ""),
            "window": window,
            "passes over it": self.passes,
            "workers": self.workers,
        } | ({ASKED: self.asked} if self.asked else {})

    @property
    def _when(self) -> str:
        ends = [f"{word} {moment:%Y-%m-%d %H:%M}" for word, moment in (("from", self.since), ("to", self.until)) if moment]
        return f"the archive {' '.join(ends)}" if ends else "all of the archive"


async def planned(store: Store, model: str, seed: int | None = None, **given: Any) -> Plan:
    """Return the settled plan to retrain a model by its declaration.

    Args:
        seed: replaces the declaration's, if given.
        given: the other fields of a plan.

    Raises:
        NotFound: no such model or version, or its weights are not kept.
        RetrainingError, SpecError.
    """
    record = (await store.models()).get(model)
    if record is None:
        raise NotFound(f"no model '{model}'")
    if not record.source:
        raise RetrainingError(f"nothing trains model '{model}': its versions were made elsewhere")
    learning = load_spec(record.source).learning
    if seed is not None:
        learning = learning.model_copy(update={"seed": seed})
    return await Plan(model=model, source=record.source, learning=learning, **given).settled(store)
