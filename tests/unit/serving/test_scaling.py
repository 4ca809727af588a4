"""Replicas by the predictions at work."""

import pytest
from ray.serve._private.common import DeploymentID, ReplicaID  # pyright: ignore[reportPrivateUsage]
from ray.serve.config import AutoscalingContext

from serving.scaling import AT_WORK, Scaling, by_predictions, given, in_turn


def _context(scaling: Scaling, *at_work: float) -> AutoscalingContext:
    ingress = DeploymentID("ingress", "tidemill")
    replicas = [ReplicaID(str(number), ingress) for number, _ in enumerate(at_work)]
    return AutoscalingContext(
        deployment_id=ingress,
        deployment_name="ingress",
        app_name="tidemill",
        current_num_replicas=len(replicas),
        target_num_replicas=len(replicas),
        running_replicas=replicas,
        total_num_requests=0.0,
        total_queued_requests=0.0,
        aggregated_metrics={AT_WORK: dict(zip(replicas, at_work, strict=True))},
        raw_metrics={},
        capacity_adjusted_min_replicas=scaling.min_replicas,
        capacity_adjusted_max_replicas=scaling.max_replicas,
        policy_state={},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=None,
        config=scaling.config(),
    )


@pytest.mark.parametrize(("at_work", "replicas"), [((16.0, 16.0), 2.0), ((64.0, 0.0), 4.0), ((0.0, 0.0), 0.0), ((), 0.0)])
def test_each_replica_gets_its_target(at_work: tuple[float, ...], replicas: float) -> None:
    wanted, _ = by_predictions(_context(Scaling(min_replicas=1, max_replicas=9, target_at_work=16.0), *at_work))
    assert wanted == replicas


def test_serve_is_told_where_the_policy_is() -> None:
    assert Scaling().config().policy.policy_function == f"{by_predictions.__module__}:{by_predictions.__name__}"


def test_bounds_are_in_order() -> None:
    with pytest.raises(ValueError, match="max_replicas, 1, must be at least min_replicas, 2"):
        Scaling(min_replicas=2, max_replicas=1)


def test_given_replicas_start_in_turn_and_stay() -> None:
    def wanted(running: int, target: int) -> float:
        context = _context(Scaling(), *[0.0] * running)
        context.target_num_replicas = target
        return in_turn(context)[0]

    assert [wanted(0, 1), wanted(1, 1), wanted(2, 2)] == [1, 2, 3]
    assert wanted(1, 3) == 3, "two are gone: they come back, and none is given up"
    assert wanted(0, 3) == 3
    config = given(3)
    assert (config.initial_replicas, config.max_replicas) == (1, 3)
    assert config.policy.policy_function == f"{in_turn.__module__}:{in_turn.__name__}"
