"""The value of freshness: the same stretch of time lived through with models of every cadence, quality against compute."""

import hashlib
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from store import tether
from store.shape import Shape
from store.spec import Learning, ModelSpec, load_spec
from trainer.giving_way import give_way
from trainer.lineage.environment import Environment
from tuning.alone import alone
from tuning.arm import Arm, Course, Kind
from tuning.cadence import CADENCES, Cadence
from tuning.comparison import Result, compared
from tuning.errors import TuningError
from tuning.journal import Journal, steps_done
from tuning.replay import Replay
from tuning.stateless import best_passes
from tuning.timeline import Timeline

ELSEWHERE = "name another folder with --folder"
"""Where another run works in the folder."""

REPLAY, PLAN, RESULT = "replay", "plan.json", "freshness.json"
DAY_S = 86_400.0
_POLL_S = 0.5

Told = Callable[[dict[Arm, tuple[int, int]]], None]
"""Told of each arm how many steps are done, of how many."""


class Plan(BaseModel):
    """All that decides what comes out. `window_days` is the first window, and the one that a stateless model trains on;
    `passes` how often it goes through it, 0: found by a search on the first window. Of stateless arms of more than `most` steps
    only `sampled` are carried out. `since` and `until` are what the replay was asked for by, and `replay` is a digest of its
    micro-batches, `environment` of what learns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    source: str
    learning: Learning
    shape: Shape
    window_days: float = Field(default=30.0, gt=0.0)
    cadences: tuple[Cadence, ...] = CADENCES
    kinds: tuple[Kind, ...] = ("stateful", "stateless")
    passes: int = Field(default=0, ge=0)
    sampled: int = Field(default=20, ge=1)
    most: int = Field(default=400, ge=1)
    since: datetime | None = None
    until: datetime | None = None
    replay: str = ""
    environment: str = ""

    @property
    def arms(self) -> list[Arm]:
        """The costliest come first, so that the rest fit beside them."""
        found = [Arm(cadence, kind) for kind in self.kinds for cadence in self.cadences]
        return sorted(found, key=lambda arm: (arm.kind == "stateful", arm.cadence != "daily", -CADENCES.index(arm.cadence)))

    def spec(self) -> ModelSpec:
        """Raises SpecError."""
        return replace(load_spec(self.source), learning=self.learning, shape=self.shape)


def planned(replay: Replay, folder: Path, source: str = "", **given: Any) -> Plan:
    """Put a replay into a run's folder, and return the plan for it.

    Args:
        source: of the spec, `package.module:attribute`; empty: as on record.
        given: other fields of the plan that are not left as they are by default.
    """
    folder.mkdir(parents=True, exist_ok=True)
    replay.save(folder / REPLAY)
    record = replay.record
    plan = Plan(model=record.name, source=source or record.source, learning=record.learning, shape=record.shape, **given)
    return plan.model_copy(update={"replay": _digest(folder / REPLAY), "environment": _environment(plan.spec())})


def carry_out(plan: Plan, folder: Path, cpus: int = 1, resume: bool = False, told: Told | None = None) -> Result:
    """Carry out a plan in its folder, which `planned` put the replay into; from the main thread.

    Args:
        cpus: arms at a time, each in a process of its own of low priority; 1: in this process.
        resume: go on with what is finished of the same plan; else begin anew.

    Raises:
        TuningError: somebody else works there, or what is there is of another plan.
    """
    with alone(folder, ELSEWHERE):
        plan = _settled(plan, folder, resume)
        course = course_of(plan, folder)
        if cpus == 1:
            done = {arm: (steps_done(folder / arm.name), len(course.steps(arm))) for arm in plan.arms}
            for arm in plan.arms:

                def tell(steps: int, of: int, arm: Arm = arm) -> None:
                    done[arm] = (steps, of)
                    if told is not None:
                        told(done)

                course.run(arm, folder / arm.name, tell)
        else:
            _share(plan, course, folder, cpus, told)
        journals = {arm: Journal(folder / arm.name, course.spec.record.outputs) for arm in plan.arms}
        result = compared(course, plan.model, journals, plan.window_days)
        draft = folder / (RESULT + ".new")
        draft.write_text(result.model_dump_json(indent=2), encoding="utf-8")
        draft.replace(folder / RESULT)
        return result


def course_of(plan: Plan, folder: Path) -> Course:
    timeline = Timeline(Replay.load(folder / REPLAY))
    window_s = plan.window_days * DAY_S
    return Course(plan.spec(), timeline, timeline.first + window_s, window_s, plan.passes, plan.sampled, plan.most)


def _settled(plan: Plan, folder: Path, resume: bool) -> Plan:
    """The plan with its passes, written down; what is there of another one is dropped, or refused."""
    digest = _plan_digest(plan)
    kept = folder / PLAN
    if resume and kept.exists():
        before = Plan.model_validate_json(kept.read_text(encoding="utf-8"))
        if _plan_digest(before.model_copy(update={"passes": plan.passes})) != digest:
            raise TuningError(
                f"what is in {folder} was begun with other settings, another archive or code: without --resume it begins anew"
            )
        return before
    for arm in plan.arms:
        for path in (folder / arm.name).glob("*"):
            path.unlink()
    if not plan.passes:
        course = Timeline(Replay.load(folder / REPLAY))
        window_s = plan.window_days * DAY_S
        passes, _ = best_passes(plan.spec(), course, course.first + window_s, window_s)
        plan = plan.model_copy(update={"passes": passes})
    draft = kept.with_suffix(".new")
    draft.write_text(plan.model_dump_json(), encoding="utf-8")
    draft.replace(kept)
    return plan


def _share(plan: Plan, course: Course, folder: Path, cpus: int, told: Told | None) -> None:
    many = {arm: len(course.steps(arm)) for arm in plan.arms}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cpus, context, _begin, (os.getpid(), plan, folder)) as pool:
        waiting = {pool.submit(_run, arm) for arm in plan.arms}
        try:
            while waiting:
                done, waiting = wait(waiting, _POLL_S, "FIRST_EXCEPTION")
                for future in done:
                    future.result()
                if told is not None:
                    told({arm: (steps_done(folder / arm.name), of) for arm, of in many.items()})
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


class _Here:
    """What a process of the pool works on."""

    course: Course
    folder: Path


def _begin(parent: int, plan: Plan, folder: Path) -> None:
    # A killed run leaves nobody who would write beside its successor.
    tether.tie_to(parent)
    give_way()
    _Here.course, _Here.folder = course_of(plan, folder), folder


def _run(arm: Arm) -> None:
    _Here.course.run(arm, _Here.folder / arm.name)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _plan_digest(plan: Plan) -> str:
    return hashlib.sha256(plan.model_dump_json().encode()).hexdigest()


def _environment(spec: ModelSpec) -> str:
    here = Environment.here(spec, "cpu").model_copy(update={"threads": 1})
    own = sorted(Path(__file__).parent.glob("*.py"))
    text = here.model_dump_json() + "".join(_digest(path) for path in own)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
