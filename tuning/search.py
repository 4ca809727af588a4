"""A search by Ray Tune: which ways to learn are tried, which of them go on, on the Ray that is running.

Tune decides; what a rung came to is kept by the trials themselves (tuning/trial.py). A search that is taken up again therefore
asks Tune from the beginning, with the same seed, and every rung that was learned is answered from its file.
"""

import json
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import JsonValue
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.basic_variant import BasicVariantGenerator

from store.search import Choice, Dimension, Int, LogUniform, Search, Uniform
from trainer.giving_way import give_way
from tuning.errors import TuningError
from tuning.plan import REDUCTION, SearchPlan
from tuning.replay import Replay
from tuning.result import Searched, Tried, worded
from tuning.trial import REPLAY, TRIALS, Trial

METRIC = "loss"
_TIME = "training_iteration"
_BUDGET = "budget"
"""What a rung is to ASHA, which compares trials at powers of the reduction alone."""
_RUNGS = "rungs"
_MOST_RUNGS = 10
_FAILURES = 3
"""How often a trial whose process died is begun again, from its last rung."""

Progress = Callable[[Tried], None]
"""Told how a trial stands, after each of its rungs."""


def search(plan: SearchPlan, space: Search, folder: Path, progress: Progress | None = None) -> Searched:
    """Try ways to learn.

    Args:
        folder: holds the replay, and the trials' files.

    Raises:
        TuningError: no trial came to a rung.
    """
    (folder / TRIALS).mkdir(exist_ok=True)
    rungs = plan.rungs(len(Replay.load(folder / REPLAY)))
    watch = _Watch(progress)
    given = {"_plan": plan.model_dump(mode="json"), "_folder": str(folder), "_rungs": rungs}
    with TemporaryDirectory(prefix="tidemill-tune-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(Tuned, {"CPU": 1}),
            param_space=given | {name: _domain(one) for name, one in space.over.items()},
            tune_config=tune.TuneConfig(
                num_samples=plan.trials,
                search_alg=_searcher(plan),
                scheduler=_scheduler(plan),
                max_concurrent_trials=plan.cpus,
                time_budget_s=plan.minutes and plan.minutes * 60,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
                metric=METRIC,
                mode="min",
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=scratch,
                stop={_TIME: len(rungs)},
                failure_config=tune.FailureConfig(max_failures=_FAILURES),
                callbacks=[watch],
                verbose=0,
            ),
        )
        with redirect_stdout(StringIO()):  # its tables are not what a script asked for
            ended = tuner.fit()
    failed = tuple(
        f"trial {number}: {_reason(one.error)} ({worded(settings_of(one.config or {}))})"
        for number, one in enumerate((ended[place] for place in range(len(ended))), 1)
        if one.error is not None
    )
    if not watch.tried:
        why = f"all failed, such as {failed[0]}" if failed else "give it more --minutes, or a shorter stretch"
        raise TuningError(f"no trial came to its first rung: {why}")
    return Searched(list(watch.tried.values()), failed)


class Tuned(tune.Trainable):
    """A trial as Tune sees it: a step is a rung."""

    def setup(self, config: dict[str, Any]) -> None:
        give_way()
        self.replay = Replay.load(Path(config["_folder"]) / REPLAY)
        self.trial = self._begun(config)

    def step(self) -> dict[str, Any]:
        rungs: list[int] = self.config["_rungs"]
        rung = self.trial.climb(rungs[len(self.trial.rungs)])
        return {
            METRIC: rung.loss,
            _BUDGET: REDUCTION ** (len(self.trial.rungs) - 1),
            "settings": self.trial.settings,
            "key": self.trial.key,
            "rungs": [one.model_dump() for one in self.trial.rungs],
        }

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.trial = self._begun(new_config)
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        # Tune asks for one when a trial ends; what was learned is in the trial's own files.
        (Path(checkpoint_dir) / _RUNGS).write_text(str(len(self.trial.rungs)))

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.trial = self._begun(self.config)
        for end in self.config["_rungs"][: int((Path(checkpoint) / _RUNGS).read_text())]:
            self.trial.climb(end)

    def _begun(self, config: dict[str, Any]) -> Trial:
        spec = SearchPlan.model_validate(config["_plan"]).spec()
        return Trial(spec, self.replay, settings_of(config), Path(config["_folder"]) / TRIALS)


class _Watch(tune.Callback):
    def __init__(self, progress: Progress | None) -> None:
        self.tried: dict[str, Tried] = {}
        self._progress = progress

    def __reduce__(self) -> "tuple[type[_Watch], tuple[None]]":
        # Tune pickles its callbacks for a restart that is none of ours, and a terminal cannot be.
        return _Watch, (None,)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        one = Tried(
            trial=[other.trial_id for other in trials].index(trial.trial_id) + 1,
            key=result["key"],
            settings=result["settings"],
            rungs=result["rungs"],
        )
        self.tried[trial.trial_id] = one
        if self._progress is not None:
            self._progress(one)


def _reason(error: BaseException) -> str:
    """Return what is said of it last: Ray puts the traceback of the process it was in before that."""
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__


def settings_of(config: dict[str, Any]) -> dict[str, JsonValue]:
    """Return what Tune chose, by dotted name: choices are its texts."""
    chosen = {name: value for name, value in config.items() if not name.startswith("_")}
    return {name: json.loads(value) if isinstance(value, str) else value for name, value in chosen.items()}


def _domain(one: Dimension) -> Any:
    match one:
        case Uniform():
            return tune.uniform(one.low, one.high)
        case LogUniform():
            return tune.loguniform(one.low, one.high)
        case Int():
            return tune.randint(one.low, one.high + 1)
        case Choice():
            # Texts, because neither Optuna nor a comparison of settings takes anything.
            return tune.choice([json.dumps(value) for value in one.values])


def _searcher(plan: SearchPlan) -> Searcher | BasicVariantGenerator:
    if plan.search != "optuna":
        return BasicVariantGenerator(random_state=plan.seed, max_concurrent=plan.cpus)
    import optuna  # noqa: PLC0415 - an extra
    from ray.tune.search.optuna import OptunaSearch  # noqa: PLC0415

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return OptunaSearch(sampler=optuna.samplers.TPESampler(seed=plan.seed))


def _scheduler(plan: SearchPlan) -> TrialScheduler:
    if not plan.asha:
        return FIFOScheduler()
    # The last rung is below the most, so that it is `stop` which ends a trial there.
    return ASHAScheduler(time_attr=_BUDGET, grace_period=1, reduction_factor=REDUCTION, max_t=REDUCTION**_MOST_RUNGS)
