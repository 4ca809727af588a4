"""What came of a retraining, put on its line: whole, in one step, and once."""

import numpy as np

from store.artefact import digest_of
from store.errors import Fenced
from store.names import learner_consumer
from store.protocols import Store, Version
from store.publishing import publish_answered
from store.requests import answer_to
from trainer.errors import RetrainingError
from trainer.lineage.environment import lineage_of
from trainer.retraining.course import Learnt, begun
from trainer.retraining.plan import Plan

_TRIES = 20


async def published(store: Store, plan: Plan, learnt: Learnt) -> tuple[Version, bool]:
    """Publish it as the newest version of its line; return that, and whether it was there before, the same to the byte or
    another answer to the same request.

    Raises:
        RetrainingError: others keep publishing on the line.
    """
    learner = begun(plan, learnt.weights, device="cpu")
    graph = learner.export()
    scores = np.asarray(learner.golden(graph), dtype=np.float32)
    lineage = plan.lineage | lineage_of(plan.spec(), plan.device)
    consumer = learner_consumer(plan.model, plan.line)
    for _ in range(_TRIES):
        at, _state = await store.consumer(consumer)
        if plan.asked and (answer := await answer_to(store, plan.model, plan.asked)) is not None:
            return answer, True
        newest = (await store.snapshot(plan.model)).channels.get(f"{plan.line}@latest")
        if newest is not None:
            known = await store.version(plan.model, newest)
            if (known.parent, known.graph, known.weights) == (plan.parent, graph.digest, digest_of(learnt.weights)):
                return known, True
        try:
            version = await publish_answered(
                store, plan.model, graph, learnt.weights, scores, plan.line, lineage, plan.spec().record.digest,
                parent=plan.parent, at=at, outcomes=plan.outcomes, metrics=learnt.metrics,
            )  # fmt: skip
        except Fenced:
            continue
        return version, False
    raise RetrainingError(f"others keep publishing on line {plan.line} of model '{plan.model}': ask again when they have done")
