"""A search for a better way to learn, beside the platform: trials on a Ray of its own, that gives way to serving.

tuning/MODEL/0001/   of the platform's home
    plan.json        what is searched
    replay           what trials learn
    trials/          a file for each rung of each, until the search has ended
    result.json      what came of it; way.json the winner's way to learn, tuning.html for people
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.at_store import at_store
from deploy.cluster import start_ray, stop_ray
from deploy.head import HeadDied, watched_head
from deploy.serve_settings import free_ports
from deploy.settings import Settings
from store.errors import NotFound
from store.protocols import Store
from store.search import Way
from store.spec import ModelSpec
from trainer.giving_way import give_way
from tuning.alone import alone
from tuning.errors import TuningError
from tuning.extras import require
from tuning.plan import SearchPlan

if TYPE_CHECKING:
    from tuning.result import Result, Searched, Tried

_TRIALS_ENVIRONMENT = {
    # A trial that gives its memory back after each step asks for it again in the next, up to 100,000 pages a second: the kernel
    # clears them while what is served waits for the processor. Sizes in bytes.
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "MALLOC_TOP_PAD_": str(2**26),
}
PLAN, RESULT, WAY, PAGE = "plan.json", "result.json", "way.json", "tuning.html"


@dataclass(frozen=True, slots=True)
class Tuning:
    """A search that ended, and its folder."""

    folder: Path
    result: "Result"


def begun(
    settings: Settings, redis_url: str, plan: SearchPlan, since: datetime | None = None, until: datetime | None = None
) -> Path:
    """Lay down what is to be searched, in a new folder, and return that.

    Args:
        plan: its source is filled in from the model's record.
        since, until: see `Replay.of`.

    Raises:
        NotFound, SpecError, TrainerError, StoreError.
    """
    from tuning.replay import Replay  # noqa: PLC0415 - torch is slow to import, and only this command needs it
    from tuning.trial import REPLAY  # noqa: PLC0415
    from tuning.winner import check_line  # noqa: PLC0415

    check_line(plan.line)
    _require(plan)

    async def gather(store: Store) -> tuple[str, Replay]:
        record = (await store.models()).get(plan.model)
        if record is None:
            raise NotFound(f"no model '{plan.model}'")
        if not record.source:
            raise TuningError(f"nothing trains model '{plan.model}': its versions were made elsewhere")
        return record.source, await Replay.of(store, record, settings.archive_folder, since, until)

    source, replay = at_store(settings, redis_url, gather)
    if len(replay) < 2:
        raise TuningError("one micro-batch is too few: the last ones are held out to judge the winner by")
    parent = _of_model(settings, plan.model)
    parent.mkdir(parents=True, exist_ok=True)
    folder = parent / f"{1 + max((int(one.name) for one in _searches(parent)), default=0):04d}"
    folder.mkdir()
    replay.save(folder / REPLAY)
    # Last, because a folder with a plan is a search that can be taken up.
    way = Way(learning=replay.record.learning, shape=replay.record.shape)
    _write(folder / PLAN, plan.model_copy(update={"source": source, "way": way}).model_dump_json(indent=1))
    return folder


def unfinished(settings: Settings, model: str) -> Path:
    """Return the folder of the newest search that has not ended; raises TuningError where there is none."""
    for folder in reversed(_searches(_of_model(settings, model))):
        if (folder / PLAN).exists() and not (folder / RESULT).exists():
            return folder
    raise TuningError(f"no search of model '{model}' is unfinished: 'tidemill tune {model}' begins one")


def tune(settings: Settings, redis_url: str, folder: Path, progress: "Callable[[Tried], None] | None" = None) -> Tuning:
    """Carry a search out, or go on with it from the rungs that were learned. Only from the main thread.

    Raises:
        SpecError, TrainerError, StoreError.
    """
    plan = SearchPlan.model_validate_json((folder / PLAN).read_text())
    _require(plan)
    from tuning.leaderboard import write_tuning  # noqa: PLC0415
    from tuning.outcome import concluded  # noqa: PLC0415
    from tuning.trial import TRIALS  # noqa: PLC0415
    from tuning.winner import published  # noqa: PLC0415

    with alone(folder, "begin a search of its own without --resume"):
        spec = plan.spec()
        result, winner = concluded(plan, spec, tried(plan, spec, folder, progress), folder)
        version = at_store(settings, redis_url, lambda store: published(store, winner.spec, winner.learner(), result))
        result = result.model_copy(update={"version": version.number})
        _write(folder / WAY, result.way.model_dump_json(indent=1))
        write_tuning(folder / PAGE, result)
        result.save(folder / RESULT)
        shutil.rmtree(folder / TRIALS)
        return Tuning(folder, result)


def tried(plan: SearchPlan, spec: ModelSpec, folder: Path, progress: "Callable[[Tried], None] | None" = None) -> "Searched":
    """Carry the trials out on a Ray of their own, or go on with them; only from the main thread.

    Raises:
        TuningError: Ray's head died; see also `tuning.search.search`.
    """
    give_way()
    os.environ.update(_TRIALS_ENVIRONMENT)
    # Ctrl-C is to end this command, not to make Tune end its search as if that were done.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    cluster = start_ray(port=free_ports(1)[0], num_cpus=plan.cpus, use_haproxy=False)
    try:
        from tuning.search import search  # noqa: PLC0415 - Ray, which may not be imported before it is set up

        with watched_head(f"'tidemill tune {plan.model} --resume' goes on from the rungs that were learned"):
            return search(plan, spec.searched, folder, progress)
    except HeadDied as error:
        raise TuningError(str(error)) from None
    finally:
        stop_ray(cluster)


def _require(plan: SearchPlan) -> None:
    """Raises TuningError for what is not installed, before any work is lost for want of it."""
    require("matplotlib", "the page of a search")
    if plan.search == "optuna":
        require("optuna", "--search optuna")


def _of_model(settings: Settings, model: str) -> Path:
    return settings.home.absolute() / "tuning" / model


def _searches(parent: Path) -> list[Path]:
    return sorted(one for one in parent.glob("*") if one.name.isdecimal())


def _write(path: Path, text: str) -> None:
    draft = path.with_suffix(".new")
    draft.write_text(text)
    draft.replace(path)
