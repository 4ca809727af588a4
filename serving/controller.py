"""The controller of one model: it reads what became of the traffic, keeps the books of its experiments, and decides.

Books and positions are saved together, so that every event is booked once, whatever is killed when. A decision is a change
of the policy, installed by compare-and-set on the epoch that it was made from: of two controllers one decides, and one that
was killed in between finds it done or does it again.
"""

import json
import logging
from collections.abc import Callable
from time import monotonic, time
from typing import Any, TypeVar

import msgpack

from router import accounts
from router.experiments import KINDS
from router.report import judge, report
from router.rollout import ROLLOUT, Move, advance, enter
from serving.promotion import unproven_default
from store.errors import EpochConflict, PolicyError
from store.names import controller_consumer, log_stream, outcome_stream
from store.policy import AuditRecord, Experiment, Snapshot
from store.protocols import START, Advance, Entry, Store, Version
from store.records import Failures, LogRecord, Outcomes, Predictions, Rankings, Shadows, unpack_log, unpack_outcomes
from store.spec import ModelRecord

log = logging.getLogger(__name__)
T = TypeVar("T")
WHO = "controller"
_READ = 1000
_SAVE_EVERY_S = 1.0
_SAVING_SHARE = 0.1
_JUDGE_EVERY_S = 0.2
_LOOK_BACK_S = 5.0


class Controller:
    """Keeps one model's experiments going. `step` is to be called for ever; `reached` is told of durable steps (for tests)."""

    def __init__(
        self,
        store: Store,
        record: ModelRecord,
        *,
        clock: Callable[[], float] = time,
        judge_every_s: float = _JUDGE_EVERY_S,
        reached: Callable[[str], None] | None = None,
    ) -> None:
        self._store = store
        self._record = record
        self._model = record.name
        self._clock = clock
        self._judge_every_s = judge_every_s
        self._reached = reached or _nobody
        self._consumer = controller_consumer(record.name)
        self._streams = {"log": log_stream(record.name), "outcomes": outcome_stream(record.name)}
        self._books: dict[str, accounts.Account] = {}
        self._opened: dict[str, list[Any]] = {}
        self._at = START
        self._read_to: dict[str, str] = {}
        self._dirty = False
        self._epoch = -1
        self._saved_at = self._judged_at = 0.0
        self._pause_s = _SAVE_EVERY_S
        self.problem = ""
        """What keeps an experiment from its next step, where that is for an operator to clear up."""

    async def start(self) -> None:
        """Take up the books where the last controller saved them."""
        self._at, _ = await self._store.consumer(self._consumer)
        blob = await self._store.blob(self._consumer)
        state: dict[str, Any] = msgpack.unpackb(blob, strict_map_key=False) if blob else {}
        self._read_to = state.get("read_to", {})
        self._opened = state.get("opened", {})
        self._packed: dict[str, Any] = state.get("books", {})
        self._books = {}

    async def step(self) -> bool:
        """Book what has come, decide, and save when it is time; return whether there is more to do at once."""
        snapshot = await self._store.snapshot(self._model)
        if snapshot.epoch != self._epoch:
            self._epoch, self.problem = snapshot.epoch, ""
        if await self._enter(snapshot):
            return True
        running = {experiment.name: experiment for experiment in snapshot.policy.experiments}
        self._open(running, snapshot)
        read = await self._book(snapshot) if running else 0
        if running and monotonic() - self._judged_at >= self._judge_every_s:
            self._judged_at = monotonic()
            if await self._decide(snapshot):
                return True
        if self._dirty and (not running or monotonic() - self._saved_at >= self._pause_s):
            await self._save(snapshot)
        return read >= _READ

    async def _enter(self, snapshot: Snapshot) -> bool:
        """Let the newest version that was not tried yet enter, if the policy says so and none is on trial."""
        policy, now = snapshot.policy, self._clock()
        plan = policy.rollout
        if plan is None or any(experiment.name == ROLLOUT for experiment in policy.experiments):
            return False
        newest = snapshot.channels.get(f"{plan.line}@latest", 0)
        if newest <= max(policy.tried, policy.champion or 0) or now - policy.tried_at < plan.every_s:
            return False
        version = await self._store.version(self._model, newest)
        if version.status != "published":
            return False
        try:
            move = enter(policy, plan, newest, now)
        except PolicyError as error:
            self.problem = f"version {newest} cannot enter: {error}"
            return False
        return await self._install(snapshot, move, now)

    def _open(self, running: dict[str, Experiment], snapshot: Snapshot) -> None:
        """Open books for experiments that are new, or of another kind than before; close those of experiments that ended."""
        for name in [name for name in self._opened if name not in running]:
            del self._opened[name]
            self._books.pop(name, None)
            self._dirty = True
        for name, experiment in running.items():
            identity = [KINDS[experiment.kind].account.__name__, experiment.progress.started_at]
            if self._opened.get(name) != identity:
                self._books[name] = KINDS[experiment.kind].account(experiment, self._record)
                self._opened[name] = identity
                self._packed.pop(name, None)
                self._dirty = True
            elif name not in self._books:
                self._books[name] = KINDS[experiment.kind].account(experiment, self._record, self._packed.pop(name, None))
            self._books[name].begin(experiment, snapshot.epoch)
        if not running:
            self._read_to = {}
        elif not self._read_to:
            earliest = min(e.progress.started_at - e.judging.before_s for e in running.values()) - _LOOK_BACK_S
            self._read_to = dict.fromkeys(self._streams, f"{max(0, int(earliest * 1000))}-0")

    async def _book(self, snapshot: Snapshot) -> int:
        """Read outcomes first: their predictions are then surely in what is read of the log."""
        outcomes = await self._store.read(self._streams["outcomes"], self._read_to["outcomes"], _READ)
        entries = await self._store.read(self._streams["log"], self._read_to["log"], _READ)
        read = self._book_log(entries, snapshot.epoch)
        for entry in outcomes:
            record = _readable(unpack_outcomes, entry)
            if isinstance(record, Outcomes):
                if any(outcome.served.epoch > snapshot.epoch for outcome in record.outcomes):
                    break
                for outcome in record.outcomes:
                    for account in self._books.values():
                        account.outcome(outcome)
            self._read_to["outcomes"] = entry.position
            read += 1
        self._dirty = self._dirty or read > 0
        now = None if self._record.clock == "event" else self._clock()
        for account in self._books.values():
            account.close(now)
        return read

    def _book_log(self, entries: list[Entry], epoch: int) -> int:
        """Book log entries up to the first that was planned on a policy that is not known here yet."""
        for count, entry in enumerate(entries):
            record = _readable(unpack_log, entry)
            if _planned_at(record) > epoch:
                return count
            for account in self._books.values():
                match record:
                    case Predictions():
                        account.predictions(record)
                    case Failures():
                        account.failures(record)
                    case Shadows():
                        account.shadows(record)
                    case Rankings():
                        account.rankings(record)
                    case _:
                        break
            self._read_to["log"] = entry.position
        return len(entries)

    async def _decide(self, snapshot: Snapshot) -> bool:
        now = self._clock()
        for experiment in snapshot.policy.experiments:
            account = self._books[experiment.name]
            units = account.units_of_step(experiment)
            try:
                move = advance(snapshot.policy, experiment.name, judge(experiment, account), units, now)
            except PolicyError as error:
                # Such as another experiment that has the layer's units: it must not keep the others from their guards.
                self.problem = f"experiment '{experiment.name}' cannot go on: {error}"
                continue
            if move is not None and move.action == "promote":
                self.problem = await unproven_default(self._store, self._model, move.policy)
                if self.problem:
                    continue
            if move is not None:
                # What was decided on is what is saved: a restart must not find less evidence than was acted on.
                await self._save(snapshot)
                return await self._install(snapshot, move, now, report(snapshot.policy, experiment, account, now))
        return False

    async def _install(self, snapshot: Snapshot, move: Move, now: float, known: dict[str, Any] | None = None) -> bool:
        rejected = await rejection(self._store, self._model, move)
        record = audit_of(self._model, move, WHO, now, snapshot.epoch + 1, known)
        self._reached(f"before {move.action}")
        try:
            await self._store.set_policy(self._model, move.policy, snapshot.epoch, record, rejected)
        except EpochConflict:
            return False  # somebody was faster: look again
        self._reached(f"after {move.action}")
        return True

    async def _save(self, snapshot: Snapshot) -> None:
        started = monotonic()
        now = self._clock()
        reports = {
            experiment.name: report(snapshot.policy, experiment, self._books[experiment.name], now)
            for experiment in snapshot.policy.experiments
            if experiment.name in self._books
        }
        books = {name: account.pack() for name, account in self._books.items()}
        blob: bytes = msgpack.packb({"read_to": self._read_to, "opened": self._opened, "books": books})  # pyright: ignore[reportAssignmentType]
        state = json.dumps({"at": now, "epoch": snapshot.epoch, "experiments": reports}).encode()
        position = f"{self._read_to.get('log', START)} {self._read_to.get('outcomes', START)}"
        self._reached("before save")
        await self._store.advance(Advance(self._consumer, self._at, position, state, blob), [])
        self._reached("after save")
        self._at, self._dirty, self._saved_at = position, False, monotonic()
        self._pause_s = max(_SAVE_EVERY_S, (monotonic() - started) / _SAVING_SHARE)


async def rejection(store: Store, model: str, move: Move) -> Version | None:
    """Return the record of the version that a move rejects, if it does."""
    if not move.rejected:
        return None
    version = await store.version(model, move.rejected)
    return version.model_copy(update={"status": "rejected", "reason": move.why})


def _readable(unpack: Callable[[bytes], T], entry: Entry) -> T | None:
    """An entry's record; None, logged, for one that cannot be read: it must not stop all that come after it."""
    try:
        return unpack(entry.payload)
    except (ValueError, TypeError, IndexError):
        log.warning("entry %s cannot be read and is left out of the books", entry.position)
        return None


def _planned_at(record: LogRecord | None) -> int:
    """The newest epoch that a record was planned on."""
    match record:
        case Predictions():
            return max((served.epoch for served in record.served), default=0)
        case Failures() | Rankings():
            return record.epoch
        case _:
            return 0


def audit_of(model: str, move: Move, who: str, now: float, epoch: int, known: dict[str, Any] | None = None) -> bytes:
    """Return the record of a decision; `known` is the report of its experiment."""
    return (
        AuditRecord(
            at=now,
            who=who,
            model=model,
            action=move.action,
            experiment=move.experiment,
            before=move.before,
            after=move.after,
            why=move.why,
            epoch=epoch,
            evidence=tuple(move.evidence),
            report=known or {},
        )
        .model_dump_json()
        .encode()
    )


def _nobody(_: str) -> None:
    """Nobody asks how far it has come."""
