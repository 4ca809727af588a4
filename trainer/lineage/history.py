"""A model's micro-batches as they were learned: outcomes from their stream, and before its beginning from the archive."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from store.archive import Placed
from store.archived import placed, read
from store.names import outcome_stream
from store.protocols import START, Store, position_key
from store.records import Outcome, Outcomes, unpack_outcomes
from store.spec import ModelRecord

READ_ENTRIES = 500


async def batches(
    store: Store, record: ModelRecord, after: str, cuts: Sequence[str], archive: Path | None
) -> AsyncGenerator[list[Outcome]]:
    """Yield for each cut the outcomes between it and the one before, for the first one those behind the position `after`.

    Where micro-batches ended is not in the archive. It need not be: each that had outcomes made a version or a refusal, and
    those keep the position of their cut.

    Args:
        cuts: positions in the outcome stream, ascending.
        archive: the folder of all archives; None where there is none. All that is archived of the model is read into memory.

    What is kept nowhere is left out: the caller knows how many outcomes each micro-batch had.
    """
    outcomes = _outcomes(store, record, archive)
    ahead = await anext(outcomes, None)
    while ahead is not None and position_key(ahead[0]) <= position_key(after):
        ahead = await anext(outcomes, None)
    for cut in cuts:
        end, batch = position_key(cut), list[Outcome]()
        while ahead is not None and position_key(ahead[0]) <= end:
            batch.append(ahead[1])
            ahead = await anext(outcomes, None)
        yield batch
    await outcomes.aclose()


async def _outcomes(store: Store, record: ModelRecord, archive: Path | None) -> AsyncGenerator[Placed]:
    stream = outcome_stream(record.name)
    entries = await store.read(stream, START, READ_ENTRIES)
    first = position_key(entries[0].position) if entries else None
    if archive is not None and (table := await asyncio.to_thread(_archived, archive, record.name)) is not None:
        for one in placed(table, record.features):
            if first is not None and position_key(one[0]) >= first:
                break
            yield one
    while entries:
        for entry in entries:
            if isinstance(found := unpack_outcomes(entry.payload), Outcomes):
                for outcome in found.outcomes:
                    yield entry.position, outcome
        entries = await store.read(stream, entries[-1].position, READ_ENTRIES)


def _archived(folder: Path, model: str) -> Any:
    try:
        return read(folder, model)
    except FileNotFoundError:
        return None
