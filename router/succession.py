"""What becomes of the traffic when a line becomes main, and who stands in the way of a line's end. Pure."""

from router.revision import revise
from router.rollout import Move, end, outline
from store.policy import MAIN, Policy


def succeed(policy: Policy, line: str, version: int, why: str, now: float) -> Move | None:
    """Return the move with which what followed a line follows main; None where nothing did.

    Experiments in which the line was a candidate have been won by it: they end, and the default arm is main.

    Args:
        version: main's first with the line's weights: what the default arm is pinned to where new versions enter by a rollout.

    Raises:
        PolicyError: other experiments do not allow it.
    """
    followers = {variant.name for variant in policy.variants if variant.version is None and variant.line == line}
    if not followers:
        return None
    won = [one for one in policy.experiments if followers & (one.shares.keys() - {one.baseline})]
    changed = policy
    if won or policy.default in followers:
        default = policy.variant(policy.default).model_copy(
            update={"line": MAIN, "version": version if policy.rollout is not None else None}
        )
        changed = policy.model_copy(
            update={"variants": tuple(default if one.name == default.name else one for one in policy.variants)}
        )
    for experiment in won:
        changed = end(changed, experiment, now)
    variants = tuple(
        one.model_copy(update={"line": MAIN}) if one.name in followers and one.version is None else one
        for one in changed.variants
    )
    changed = revise(changed, changed.model_copy(update={"variants": variants}), now)
    name = won[0].name if won else ""
    return Move(changed, "promote", name, outline(policy), outline(changed), why)


def users(policy: Policy, line: str) -> list[str]:
    """Return in words who answers by what a line publishes."""
    followers = {variant.name for variant in policy.variants if variant.version is None and variant.line == line}
    found = [f"the default arm '{policy.default}'"] if policy.default in followers else []
    found += [f"experiment '{one.name}'" for one in policy.experiments if followers & {*one.shares, one.baseline}]
    return found + [f"the forced unit '{unit[:80]}'" for unit, variant in policy.forced.items() if variant in followers]
