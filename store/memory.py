"""The store's protocols in one process's memory: for tests and simulations."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic, time
from typing import Any

from store.errors import EpochConflict, Fenced, ModelExists, NotFound, SpecError
from store.keys import Key
from store.names import AUDIT, consumers_of, streams_of
from store.policy import CHAMPION, Policy, Report, Snapshot
from store.protocols import NUMBER, START, Advance, Commit, Entry, Graph, Version, position_key
from store.spec import ModelRecord, RemovedModel, Schedule


@dataclass
class _Model:
    record: ModelRecord | None = None
    removed: RemovedModel | None = None
    graphs: dict[str, Graph] = field(default_factory=dict[str, Graph])
    versions: list[Version] = field(default_factory=list[Version])
    weights: dict[int, bytes] = field(default_factory=dict[int, bytes])
    snapshot: Snapshot = Snapshot()


class MemoryStore:
    """EventLog, KeyRing, ModelRegistry and PolicyBoard at once."""

    def __init__(self) -> None:
        self._streams: dict[str, list[Entry]] = {}
        self._newest: dict[str, str] = {}
        self._sequence = 0
        self._consumers: dict[str, tuple[str, bytes]] = {}
        self._blobs: dict[str, bytes] = {}
        self._models: dict[str, _Model] = {}
        self._reports: dict[str, tuple[float, Report]] = {}
        self._keys: dict[str, Key] = {}
        self._moved = asyncio.Event()

    async def append(self, entries: Sequence[tuple[str, bytes]]) -> list[str]:
        positions: list[str] = []
        for stream, payload in entries:
            self._sequence += 1
            positions.append(f"1-{self._sequence}")
            self._streams.setdefault(stream, []).append(Entry(positions[-1], payload))
            self._newest[stream] = positions[-1]
        self._wake()
        return positions

    def send(self, entries: Sequence[tuple[str, bytes]]) -> "asyncio.Future[list[Any]]":
        return asyncio.ensure_future(self.append(entries))

    async def read(self, stream: str, after: str, count: int, block_s: float = 0.0) -> list[Entry]:
        deadline = monotonic() + block_s
        while True:
            moved = self._moved
            key = position_key(after)
            found = [entry for entry in self._streams.get(stream, []) if position_key(entry.position) > key][:count]
            if found or not await self._moved_by(moved, deadline):
                return found

    async def advance(self, step: Advance, entries: Sequence[tuple[str, bytes]]) -> list[str]:
        self._move(step)
        return await self.append(entries)

    def _move(self, *steps: Advance) -> None:
        for step in steps:
            position, _ = self._consumers.get(step.consumer, (START, b""))
            if position != step.expected:
                raise Fenced(step.consumer, step.expected, position)
        for step in steps:
            self._consumers[step.consumer] = (step.position, step.state)
            if step.blob:
                self._blobs[step.consumer] = step.blob

    async def consumer(self, name: str) -> tuple[str, bytes]:
        return self._consumers.get(name, (START, b""))

    async def blob(self, consumer: str) -> bytes:
        return self._blobs.get(consumer, b"")

    async def last(self, stream: str) -> str:
        return self._newest.get(stream, START)

    async def trim(self, stream: str, before: str) -> int:
        entries = self._streams.get(stream, [])
        kept = [entry for entry in entries if position_key(entry.position) >= position_key(before)]
        self._streams[stream] = kept
        return len(entries) - len(kept)

    async def keys(self) -> list[Key]:
        return list(self._keys.values())

    async def put_key(self, key: Key) -> None:
        self._keys[key.id] = key
        self._wake()

    async def drop_key(self, id_: str) -> None:
        if self._keys.pop(id_, None) is None:
            raise NotFound(f"no key {id_[:80]}")
        self._wake()

    async def register(self, record: ModelRecord) -> None:
        known = self._model(record.name)
        before = known.removed.ready() if known.removed else None
        known.record, known.removed = merged(known.record or before, record), None
        self._wake()

    async def add(self, record: ModelRecord, audit: bytes = b"") -> None:
        known = self._model(record.name)
        if known.record:
            raise ModelExists(record.name)
        new = merged(known.removed.ready() if known.removed else None, record)
        known.record, known.removed = new.model_copy(update={"loaded": True}), None
        if audit:
            await self.append([(AUDIT, audit)])
        self._wake()

    async def remove(self, model: str, audit: bytes = b"", expected_epoch: int | None = None) -> str:
        known = self._models.get(model)
        if known is None or known.record is None:
            raise NotFound(f"no model '{model[:80]}'")
        if expected_epoch not in (None, known.snapshot.epoch):
            raise EpochConflict(model, expected_epoch, known.snapshot.epoch)
        known.record, known.removed = None, RemovedModel(record=known.record, at=time())
        if audit:
            await self.append([(AUDIT, audit)])
        self._wake()
        return f"1-{self._sequence}"

    async def removed(self) -> dict[str, RemovedModel]:
        return {name: model.removed for name, model in self._models.items() if model.removed}

    async def purge(self, model: str) -> None:
        known = self._models.get(model)
        if known is None or known.removed is None:
            raise NotFound(f"nothing is kept of a removed model '{model[:80]}'")
        del self._models[model]
        for stream in streams_of(model):
            self._streams.pop(stream, None)
            self._newest.pop(stream, None)
        exact, prefixes = consumers_of(model)
        for name in [name for name in self._consumers if name in exact or name.startswith(prefixes)]:
            del self._consumers[name]
            self._blobs.pop(name, None)

    async def models(self) -> dict[str, ModelRecord]:
        return {name: model.record for name, model in self._models.items() if model.record}

    async def set_schedule(self, model: str, schedule: Schedule) -> None:
        self._amend(model, {"schedule": schedule})

    async def set_loaded(self, model: str, loaded: bool) -> None:
        self._amend(model, {"loaded": loaded})

    def _amend(self, model: str, changes: dict[str, Any]) -> None:
        known = self._models.get(model)
        if known is None or known.record is None:
            raise NotFound(f"no model '{model[:80]}'")
        known.record = known.record.model_copy(update=changes)

    async def put_graph(self, model: str, graph: Graph) -> None:
        self._model(model).graphs[graph.digest] = graph

    async def graph(self, model: str, digest: str) -> Graph:
        graphs = self._model(model).graphs
        if digest not in graphs:
            raise NotFound(f"model '{model}' has no graph {digest}")
        return graphs[digest]

    async def commit(self, model: str, commit: Commit) -> Version | None:
        known = self._model(model)
        self._move(commit.step, *commit.beside)
        self._wake()
        if commit.version is None:
            return None
        version = commit.version.model_copy(update={"number": len(known.versions) + 1})
        known.versions.append(version)
        if commit.audit:
            await self.append([(AUDIT, commit.audit.replace(NUMBER.encode(), str(version.number).encode()))])
        if version.status == "published" or commit.weights:
            known.weights[version.number] = commit.weights
        if version.status == "published":
            channels = {**known.snapshot.channels, f"{version.line}@latest": version.number}
            update = {"channels": channels, "channel_seq": known.snapshot.channel_seq + 1}
            known.snapshot = known.snapshot.model_copy(update=update)
        self._wake()
        return version

    async def versions(self, model: str, last: int = 100) -> list[Version]:
        return self._model(model).versions[::-1][:last]

    async def version(self, model: str, number: int) -> Version:
        versions = self._model(model).versions
        if not 1 <= number <= len(versions):
            raise NotFound(f"model '{model}' has no version {number}")
        return versions[number - 1]

    async def weights(self, model: str, number: int) -> bytes:
        weights = self._model(model).weights
        if number not in weights:
            raise NotFound(f"the weights of version {number} of model '{model}' are not kept")
        return weights[number]

    async def forget_weights(self, model: str, numbers: Sequence[int]) -> None:
        for number in numbers:
            self._model(model).weights.pop(number, None)

    async def snapshot(self, model: str) -> Snapshot:
        known = self._models.get(model)
        return known.snapshot if known else Snapshot()

    async def set_policy(
        self, model: str, policy: Policy, expected_epoch: int, audit: bytes = b"", rejected: Version | None = None
    ) -> int:
        known = self._model(model)
        epoch = known.snapshot.epoch
        if known.removed:
            raise NotFound(f"model '{model[:80]}' was removed")
        if epoch != expected_epoch:
            raise EpochConflict(model, expected_epoch, epoch)
        channels = {name: number for name, number in known.snapshot.channels.items() if name != CHAMPION}
        if policy.champion is not None:
            channels[CHAMPION] = policy.champion
        known.snapshot = known.snapshot.model_copy(update={"policy": policy, "epoch": epoch + 1, "channels": channels})
        if audit:
            await self.append([(AUDIT, audit)])
        if rejected is not None:
            known.versions[rejected.number - 1] = rejected
            before, channel = latest_before(known.versions[::-1], rejected), f"{rejected.line}@latest"
            if before and known.snapshot.channels.get(channel) == rejected.number:
                channels = known.snapshot.channels | {channel: before}
                update = {"channels": channels, "channel_seq": known.snapshot.channel_seq + 1}
                known.snapshot = known.snapshot.model_copy(update=update)
        self._wake()
        return epoch + 1

    async def changes(self, after: str, block_s: float) -> str:
        deadline = monotonic() + block_s
        while True:
            moved = self._moved
            if position_key(f"1-{self._sequence}") > position_key(after):
                return f"1-{self._sequence}"
            if not await self._moved_by(moved, deadline):
                return after

    async def report(self, report: Report, lease_s: float) -> None:
        self._reports[report.name] = (monotonic() + lease_s, report)

    async def reports(self) -> list[Report]:
        now = monotonic()
        self._reports = {name: kept for name, kept in self._reports.items() if kept[0] > now}
        return [report for _, report in self._reports.values()]

    def _model(self, model: str) -> _Model:
        return self._models.setdefault(model, _Model())

    def _wake(self) -> None:
        self._sequence += 1
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    @staticmethod
    async def _moved_by(moved: asyncio.Event, deadline: float) -> bool:
        try:
            async with asyncio.timeout(max(0.0, deadline - monotonic())):
                await moved.wait()
        except TimeoutError:
            return False
        return True


def merged(known: ModelRecord | None, record: ModelRecord) -> ModelRecord:
    """Return the record to keep when a model is declared again, or for the first time.

    Raises:
        SpecError: its features, objective or network changed, so its weights would not fit.
    """
    if known is None:
        return record
    if known.digest != record.digest:
        raise SpecError(
            f"model '{record.name}' is on record with other features, objective or network, and its weights do not fit "
            "these: declare the new one under another name, or drop what is kept of the old one with "
            f"'tidemill model remove {record.name} --purge'"
        )
    kept = {"schedule": known.schedule, "loaded": known.loaded, "source": record.source or known.source}
    return record.model_copy(update=kept)


def latest_before(versions: Sequence[Version], rejected: Version) -> int:
    """Return the newest good version of a line before one that is rejected, 0 if there is none; `versions` newest first."""
    good = (one for one in versions if one.line == rejected.line and one.status == "published" and one.number < rejected.number)
    return next((one.number for one in good), 0)
