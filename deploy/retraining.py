"""A model retrained from the archive, beside the platform: in this process, or by workers on a Ray of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deploy.at_store import at_store
from deploy.cluster import start_ray, stop_ray
from deploy.serve_settings import free_ports
from deploy.settings import Settings
from store.protocols import Version
from trainer.giving_way import give_way


@dataclass(frozen=True, slots=True)
class Retrained:
    """What came of it. `before`: the line's newest version was the same to the byte, and nothing was published."""

    version: Version
    before: bool
    refusals: int
    refused: str

    def as_json(self) -> dict[str, object]:
        version = self.version.model_dump(mode="json", exclude={"golden", "label_times"})
        return {"version": version, "before": self.before, "refusals": self.refusals, "refused": self.refused}


def retrain(
    settings: Settings, redis_url: str, model: str, progress: Callable[[int, int], None] | None = None, **given: Any
) -> Retrained:
    """Retrain a model and publish what comes of it on a line of its own. Only from the main thread.

    Nothing is published before all is learned, and then in one step: cut short anywhere, it can be done again.

    Args:
        given: the fields of a `trainer.retraining.plan.Plan` that are not left as they are by default.

    Raises:
        NotFound, SpecError, RetrainingError, StoreError.
    """
    # Torch is slow to import, and only this command needs it.
    from trainer.retraining.course import carry_out  # noqa: PLC0415
    from trainer.retraining.plan import planned  # noqa: PLC0415
    from trainer.retraining.publication import published  # noqa: PLC0415

    give_way()
    plan = at_store(
        settings, redis_url, lambda store: planned(store, model, settings.seed, folder=str(settings.archive_folder), **given)
    )
    weights = at_store(settings, redis_url, lambda store: store.weights(model, plan.parent)) if plan.parent else b""
    if plan.workers == 1:
        learnt = carry_out(plan, weights, progress)
    else:
        cluster = start_ray(port=free_ports(1)[0], use_haproxy=False)
        try:
            from trainer.retraining import workers  # noqa: PLC0415 - Ray, which may not be imported before it is set up

            learnt = workers.carry_out(plan, weights, progress)
        finally:
            stop_ray(cluster)
    version, before = at_store(settings, redis_url, lambda store: published(store, plan, learnt))
    return Retrained(version, before, learnt.refusals, learnt.refused)
