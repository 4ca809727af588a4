"""The monitor at the learner's side: what is learned is watched, and what is found is answered, in the same durable step.

What it knows is saved with the learner's checkpoint and moves with it: after a kill the same outcomes give the same alarms
and the same answers, and each alarm goes on record once.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from store.drift import Drift, summary
from store.policy import AuditRecord
from store.protocols import NUMBER
from store.records import Outcome
from store.spec import ModelRecord
from trainer.drift.columns import Seen
from trainer.drift.lookout import Lookout
from trainer.drift.monitor import Monitor
from trainer.drift.state import pack, unpack
from trainer.drift.window import Alarm
from trainer.learner import Learner
from trainer.targets import progressive

log = logging.getLogger(__name__)

KEPT = 20
"""Alarms that are shown; the audit record has more."""


class Watch:
    """Watches what `learner` learns, and changes how it goes on where the declaration says so."""

    def __init__(self, record: ModelRecord, settings: Drift, learner: Learner) -> None:
        self._record, self._settings, self._learner = record, settings, learner
        self._monitor = Monitor(record, settings)
        self._gathered: tuple[Sequence[Outcome], str] | None = None
        self._lookout: Lookout | None = None
        self._alarms: list[dict[str, Any]] = []
        self._counts: dict[str, int] = {}
        self._faster = 0
        self._wanted: dict[str, Any] = {}
        self.answered: dict[str, Any] = {}
        """What the lineage of the version that is made of the batch says: `pace`, by which the learning rate was multiplied
        where it was raised, and `reset`, where the optimiser begins anew behind it."""

    @property
    def shown(self) -> dict[str, Any]:
        """What operators see: the newest `alarms` first, how many there were of each kind, how far the watching is."""
        monitor = self._monitor
        return {
            "alarms": self._alarms,
            "counts": self._counts,
            "outcomes": monitor.outcomes,
            "season": self._settings.season,
            **monitor.watching,
            "off": monitor.off,
            "faster": self._faster,
            "retrain": self._wanted,
        }

    def gathered(self, outcomes: Sequence[Outcome], log_position: str) -> None:
        """Note the batch that the learner has learned; it counts once `look` is called."""
        self._gathered, self._lookout = (outcomes, log_position), None
        pace = self._learner.descent.pace
        self.answered = {"drift": {"pace": pace}} if pace != 1.0 else {}

    def ahead(self, waiting: Sequence[Outcome]) -> str:
        """Look at outcomes that wait to be learned; return why they are to be learned at once, the same once, or nothing."""
        if self._lookout is None:
            self._lookout = Lookout(self._record, self._learner, self._forked, self._monitor.missing)
        alarms = self._lookout.look(waiting)
        return f"drift: {summary(alarms[0].told())}" if alarms else ""

    def _forked(self) -> Monitor:
        monitor = Monitor(self._record, self._settings)
        monitor.restore(self._monitor.state())
        return monitor

    def look(self) -> bytes:
        """Take in the batch that was learned, now that it is good; answer alarms; return the record of them, if any."""
        if self._gathered is None:
            return b""
        (outcomes, log_position), self._gathered = self._gathered, None
        outcomes = [outcomes[place] for place in progressive(self._record.labels, outcomes)]
        if not outcomes:
            return b""
        encoded, outputs, losses = self._learner.seen()
        self._faster = max(0, self._faster - 1)
        alarms = self._monitor.take(Seen(outcomes, encoded, outputs, losses), log_position)
        told = [replace(alarm, responses=self._settings.respond).told() for alarm in alarms]
        for alarm, one in zip(alarms, told, strict=True):
            log.warning("model %s: %s", self._record.name, summary(one))
            self._counts = self._counts | {alarm.kind: self._counts.get(alarm.kind, 0) + 1}
        self._alarms = [*told[::-1], *self._alarms][:KEPT]
        if alarms:
            self._answer(alarms)
        self._learner.descent.pace = self._settings.factor if self._faster else 1.0
        return self._audit(alarms, told) if alarms else b""

    def _answer(self, alarms: Sequence[Alarm]) -> None:
        respond = self._settings.respond
        if "raise the learning rate" in respond:
            self._faster = self._settings.batches
        if "reset the optimiser" in respond:
            self._learner.descent.reset()
            self.answered = {"drift": self.answered.get("drift", {}) | {"reset": True}}
        if "retrain" in respond:
            since = min((alarm.since for alarm in alarms), key=lambda place: place.outcome)
            self._wanted = {"outcome": since.outcome, "at": since.at, "log_position": since.log_position}

    def _audit(self, alarms: Sequence[Alarm], told: Sequence[dict[str, Any]]) -> bytes:
        return (
            AuditRecord(
                at=alarms[-1].found.at,
                who="trainer",
                model=self._record.name,
                action="drift",
                after=f"version {NUMBER}; {', '.join(self._settings.respond) or 'alert'}",
                why=" ".join(summary(one) for one in told),
                evidence=tuple(told),
            )
            .model_dump_json()
            .encode()
        )

    def state(self) -> bytes:
        """Return all that is to be saved with the learner's checkpoint."""
        return pack([self._alarms, self._counts, self._faster, self._wanted, self._monitor.state()])

    def restore(self, state: bytes) -> None:
        """Become the watch that wrote this; nothing where nobody watched before."""
        if not state:
            return
        self._alarms, self._counts, self._faster, self._wanted, monitor = unpack(state)
        if not self._monitor.restore(monitor):
            log.warning("model %s: its drift settings have changed, and what is usual is learned anew", self._record.name)
        self._learner.descent.pace = self._settings.factor if self._faster else 1.0
