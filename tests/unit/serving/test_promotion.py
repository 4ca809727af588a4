"""Which versions may become the default arm."""

from typing import Any

import pytest

from serving.promotion import unproven, unproven_default
from store.gates import Gates
from store.memory import MemoryStore
from store.policy import Policy, Variant
from store.protocols import START, Advance, Commit, Version
from store.schema import Schema
from store.spec import ModelRecord

pytestmark = pytest.mark.anyio

NOW = 2_000_000.0
RECORD = ModelRecord(name="m", features=Schema(fields=()), objective="binary", gates=Gates(fresh_s=60.0))
OTHERS = RECORD.model_copy(update={"gates": Gates(quality=0.5)})


def _version(passed: bool | None = True, age_s: float = 10.0) -> Version:
    verdict = {"passed": passed, "declared": RECORD.gates.digest, "evidence": {}}
    lineage: dict[str, Any] = {} if passed is None else {"gates": verdict}
    reason = "size: 3 MB" if passed is False else ""
    return Version(model="m", line="main", position="1-0", created_at=NOW - age_s, lineage=lineage, reason=reason)


def test_a_verdict_must_be_good_of_these_gates_and_fresh() -> None:
    assert not unproven(RECORD, _version(), NOW)
    assert not unproven(RECORD, _version(passed=None, age_s=1e6), NOW), "nobody judged it"
    assert unproven(RECORD, _version(passed=False), NOW) == "it failed its gates: size: 3 MB"
    assert "not those that are declared now" in unproven(OTHERS, _version(), NOW)
    assert unproven(RECORD, _version(age_s=120.0), NOW) == "its gates were passed 120 s ago, longer than 60 s"


def test_how_fresh_a_verdict_must_be_does_not_change_what_was_judged() -> None:
    assert RECORD.gates.digest == Gates().digest
    assert OTHERS.gates.digest != Gates().digest


async def test_only_the_default_arms_pin_is_looked_at() -> None:
    store = MemoryStore()
    await store.register(RECORD)
    assert not await unproven_default(store, "m", Policy())
    await store.commit("m", Commit(Advance("learner:m:main", START, "1-0"), _version(passed=False), b"w"))
    pinned = Policy(variants=(Variant(name="main", version=1), Variant(name="other")))
    assert (await unproven_default(store, "m", pinned)).startswith("version 1 is not to be promoted: it failed its gates")
    assert not await unproven_default(store, "m", pinned.model_copy(update={"default": "other"}))
