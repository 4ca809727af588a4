"""What drift asks for: a request to retrain, which stands in the learner's state until a version answers it.

The version says in its lineage which request it answers. So it does not matter who takes a request up, or how often he
is killed: it is answered once.
"""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict

from store.names import learner_consumer
from store.protocols import Store, Version
from store.spec import ModelRecord

ASKED = "asked"
"""What a version's lineage names its request by."""


class Request(BaseModel):
    """To retrain on what was predicted since `at`, seconds since 1970; `log_position`, where the shift began, is its name.
    `outcomes` is how many were watched since."""

    model_config = ConfigDict(frozen=True)

    log_position: str
    at: float
    outcomes: int


async def asked(store: Store, record: ModelRecord) -> Request | None:
    """Return what a model's drift asks for, where its declaration has that answer; answered or not."""
    if record.drift is None or "retrain" not in record.drift.respond:
        return None
    _, state = await store.consumer(learner_consumer(record.name))
    drift: dict[str, Any] = (json.loads(state) if state else {}).get("drift", {})
    if not (wanted := drift.get("retrain")):
        return None
    since = max(0, drift["outcomes"] - wanted["outcome"])
    return Request(log_position=wanted["log_position"], at=wanted["at"], outcomes=since)


async def answer_to(store: Store, model: str, log_position: str) -> Version | None:
    """Return the version that answers the request of this name."""
    versions = await store.versions(model, 2**31)
    return next((version for version in versions if version.lineage.get(ASKED) == log_position), None)
