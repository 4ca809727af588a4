"""A search's winner: it learns the stretch that no trial has seen, too, and becomes a version that answers nobody yet."""

import numpy as np

from store.artefact import digest_of
from store.errors import Fenced
from store.names import compressed_line, learner_consumer
from store.policy import MAIN
from store.protocols import Store, Version
from store.publishing import publish_answered
from store.spec import ModelSpec
from trainer.learner import Learner
from trainer.lineage.environment import lineage_of
from tuning.errors import TuningError
from tuning.result import Result

_TRIES = 20


def check_line(line: str) -> None:
    """Raises TuningError for a line that is the trainer's."""
    if line in (MAIN, compressed_line(MAIN)):
        raise TuningError(f"line '{line}' is the trainer's: name another with --line")


async def published(store: Store, spec: ModelSpec, learner: Learner, result: Result) -> Version:
    """Publish the winner as the newest version of its line, in one step and once: what is there already is returned.

    Args:
        spec: with the winner's way to learn; `learner` has learned all of the stretch.

    Raises:
        TuningError: others keep publishing on the line.
    """
    model, line, weights = spec.name, result.plan.line, learner.weights()
    graph = learner.export()
    scores = np.asarray(learner.golden(graph), dtype=np.float32)
    from_to = f"{len(result.leaderboard)} trials on {result.outcomes:,} outcomes"
    lineage = {
        "cut": f"tuned: the best of {from_to}",
        "tuned": result.winner.settings,
        **lineage_of(spec, "cpu"),
        "shape": spec.shape.model_dump(mode="json"),
    }
    for _ in range(_TRIES):
        at, _state = await store.consumer(learner_consumer(model, line))
        newest = (await store.snapshot(model)).channels.get(f"{line}@latest")
        if newest is not None:
            known = await store.version(model, newest)
            if (known.graph, known.weights) == (graph.digest, digest_of(weights)):
                return known
        try:
            return await publish_answered(
                store, model, graph, weights, scores, line, lineage, spec.record.digest, at=at, outcomes=result.outcomes,
                metrics={"loss": result.winner.loss, "held_out_loss": result.heldout.winner},
            )  # fmt: skip
        except Fenced:
            continue
    raise TuningError(f"others keep publishing on line {line} of model '{model}': --resume when they have done")
