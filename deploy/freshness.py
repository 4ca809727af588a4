"""The value of freshness of a model, by its archive: beside the platform, in processes of their own that give way to it."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.settings import Settings
from store.errors import NotFound
from store.redis_store import RedisStore
from trainer.giving_way import give_way
from tuning.alone import alone
from tuning.extras import require

if TYPE_CHECKING:
    from tuning.arm import Arm
    from tuning.comparison import Result

Told = Callable[[str, int, int], None]
"""Told of each arm, by its name, how many steps are done, of how many."""


def freshness(
    settings: Settings,
    redis_url: str,
    model: str,
    *,
    folder: Path,
    since: datetime | None = None,
    until: datetime | None = None,
    cpus: int = 1,
    resume: bool = False,
    told: Told | None = None,
    **given: Any,
) -> "Result":
    """Measure it; return a `tuning.comparison.Result`, which is in the folder too, with the page for people.

    Args:
        folder: where all of it is kept, for a run that is cut short to be resumed.
        since, until: of the micro-batches, as `tuning.replay.Replay.of` takes them.
        given: the fields of a `tuning.freshness.Plan` that are not left as they are by default.

    Raises:
        NotFound, SpecError, StoreError, TuningError.
    """
    require("matplotlib", "the page of a run")
    # Torch and matplotlib are slow to import, and only this command needs them.
    from tuning.freshness import ELSEWHERE, PLAN, REPLAY, carry_out, planned  # noqa: PLC0415
    from tuning.replay import Replay  # noqa: PLC0415
    from tuning.report import write_freshness  # noqa: PLC0415

    async def replay() -> Replay:
        store = RedisStore(redis_url, settings.prefix)
        try:
            record = (await store.models()).get(model)
            if record is None:
                raise NotFound(f"no model '{model}'")
            return await Replay.of(store, record, settings.archive_folder, since, until)
        finally:
            await store.close()

    give_way()
    with alone(folder, ELSEWHERE):
        # The archive has grown since: what is resumed goes on with the micro-batches that it began with.
        begun = resume and (folder / PLAN).exists()
        found = Replay.load(folder / REPLAY) if begun else asyncio.run(replay())
        plan = planned(found, folder, since=since, until=until, **given)

    def tell(done: "dict[Arm, tuple[int, int]]") -> None:
        for arm, (steps, of) in done.items():
            if told is not None:
                told(arm.name, steps, of)

    result = carry_out(plan, folder, cpus, resume, tell)
    write_freshness(folder / "freshness.html", result)
    return result
