"""Who may become the default arm: a version whose gates were passed, as they are declared now, and not too long ago."""

from time import time

from store.policy import Policy
from store.protocols import Store, Version
from store.spec import ModelRecord


async def unproven_default(store: Store, model: str, policy: Policy) -> str:
    """Say why the version that a policy's default arm is pinned to should not be promoted, or nothing."""
    number, record = policy.variant(policy.default).version, (await store.models()).get(model)
    if number is None or record is None:
        return ""
    why = unproven(record, await store.version(model, number), time())
    return f"version {number} is not to be promoted: {why}" if why else ""


def unproven(record: ModelRecord, version: Version, now: float) -> str:
    """Say why a version's verdict does not let it be promoted at `now` (seconds since 1970), or nothing. One that was never
    judged (the first one, imported and compressed ones) has nothing against it here."""
    verdict = version.lineage.get("gates")
    if not verdict:
        return ""
    if not verdict["passed"]:
        return f"it failed its gates: {version.reason}"
    if verdict["declared"] != record.gates.digest:
        return "the gates that it passed are not those that are declared now"
    age_s, fresh_s = now - version.created_at, record.gates.fresh_s
    return f"its gates were passed {age_s:,.0f} s ago, longer than {fresh_s:g} s" if fresh_s and age_s > fresh_s else ""
