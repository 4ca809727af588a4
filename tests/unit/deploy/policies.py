"""Policies and versions as a platform answers with them."""

from typing import Any

from router import revise
from store.policy import Experiment, Policy, Step, Variant

POLICY = "GET /admin/models/m/policy"
STEPS = (Step(kind="shadow", share=1.0), Step(share=0.05))


def state_of(policy: Policy, epoch: int = 7) -> dict[str, Any]:
    made = revise(Policy(tried=policy.tried, tried_at=policy.tried_at), policy, now=1000.0)
    return {"epoch": epoch, "policy": made.model_dump(mode="json"), "channels": {"main@latest": 3}}


PINNED = Policy(variants=(Variant(name="main", version=2), Variant(name="new", version=3)))
TRIAL = PINNED.model_copy(update={"experiments": (Experiment(name="trial", kind="canary", shares={"new": 0.0}, steps=STEPS),)})


def version_of(number: int, status: str = "published", line: str = "main") -> dict[str, Any]:
    reason = "a [bold]bad[/bold] one" if status == "rejected" else ""
    return {
        "number": number, "status": status, "line": line, "reason": reason, "outcomes": 5, "metrics": {"loss": 0.5},
        "lineage": {"cut": "hand"},
    }  # fmt: skip
