"""Drift among outcomes that wait to be learned: what the watch will find of them at the next cut, found before it.

A copy of the watch's monitor, made when a micro-batch begins, is given the waiting outcomes, window by window, scored by
the learner as it is. Nothing of that is kept: a trainer that starts over reads the same outcomes, and finds the same. The
micro-batch that then ends is watched like any other, and there the alarm goes on record.
"""

from collections.abc import Callable, Sequence

import torch

from store.records import Outcome
from store.spec import ModelRecord
from trainer.drift.columns import Seen
from trainer.drift.monitor import Monitor
from trainer.drift.window import Alarm
from trainer.learner import Learner
from trainer.losses import PlainLoss
from trainer.targets import progressive


class Lookout:
    """Looks at the outcomes of one micro-batch as they come. A window that is not whole costs nothing.

    Args:
        fork: returns a monitor that goes on where the watch's is now.
        missing: how many outcomes the watch's next window lacks.
    """

    def __init__(self, record: ModelRecord, learner: Learner, fork: Callable[[], Monitor], missing: int) -> None:
        self._record, self._learner = record, learner
        self._fork, self._missing = fork, missing
        self._monitor: Monitor | None = None
        self._loss = PlainLoss(record.objective)
        self._seen = 0
        self._waiting: list[Outcome] = []

    def look(self, batch: Sequence[Outcome]) -> list[Alarm]:
        """Look at what is new in the batch, which only grows; return the alarms of the first window that gives any."""
        new = batch[self._seen :]
        self._seen = len(batch)
        self._waiting += [new[place] for place in progressive(self._record.labels, new)]
        while len(self._waiting) >= self._missing:
            if self._monitor is None:
                self._monitor = self._fork()
            window, self._waiting = self._waiting[: self._missing], self._waiting[self._missing :]
            found = self._monitor.take(self._scored(window), "")
            self._missing = self._monitor.missing
            if found:
                return found
        return []

    @torch.no_grad()
    def _scored(self, outcomes: Sequence[Outcome]) -> Seen:
        """As the learner would have them at a cut, before it learns them."""
        learner = self._learner
        encoded = learner.encode([outcome.row for outcome in outcomes])
        numbers, categories = (torch.from_numpy(one).to(learner.device) for one in (encoded.numbers, encoded.categories))
        kind = torch.int64 if self._record.objective == "multiclass" else torch.float32
        labels = torch.tensor([learner.teaching.label(one.label) for one in outcomes], dtype=kind, device=learner.device)
        learner.scorer.eval()
        logits = learner.scorer.network(numbers, categories)
        losses = self._loss(logits, labels).double().cpu().numpy()
        return Seen(outcomes, encoded, learner.scorer.link(logits).cpu().numpy(), losses)
