"""A search brought to its end: the winner and production's own way learn the stretch that no trial has seen."""

from dataclasses import replace
from pathlib import Path

from store.spec import ModelSpec
from tuning.judgement import importance, placed
from tuning.plan import SearchPlan
from tuning.replay import Replay, learn
from tuning.result import Heldout, Result, Searched, Tried
from tuning.trial import REPLAY, TRIALS, Trial


def concluded(plan: SearchPlan, spec: ModelSpec, searched: Searched, folder: Path) -> tuple[Result, Trial]:
    """Return what came of a search, its version still to be published, and the winner, which has learned all of the stretch."""
    replay = Replay.load(folder / REPLAY)
    rungs = plan.rungs(len(replay))
    production = replace(spec, learning=replay.record.learning, shape=replay.record.shape, search=None)
    declared = Trial(production, replay, {}, folder / TRIALS)
    for end in rungs:
        declared.climb(end)
    board = placed(searched.tried, spec)
    best = board[0].tried
    winner = Trial.read(spec, replay, folder / TRIALS, best.key, len(best.rungs))
    first = best.rungs[-1].batches
    unseen = range(rungs[-1], len(replay))
    theirs = learn(declared.learner(), replay, unseen)
    learn(winner.learner(), replay, range(first, rungs[-1]))  # of a search that ran out of time
    ours = learn(winner.learner(), replay, unseen)
    result = Result(
        plan=plan,
        outcomes=replay.outcomes,
        batches=len(replay),
        rungs=tuple(rungs),
        since=replay.batches[0].at,
        until=replay.batches[-1].at,
        production=Tried(trial=0, key=declared.key, settings={}, rungs=tuple(declared.rungs)),
        leaderboard=board,
        importance=importance(searched.tried, plan.seed),
        way=winner.spec.way,
        heldout=Heldout(judged=ours.judged, winner=ours.mean, production=theirs.mean),
        failed=searched.failed,
    )
    return result, winner
