"""A refused request is answered, counted, and let go."""

import gc
import weakref
from collections.abc import Generator
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from serving.asking import EXPECTED, refusal_of
from serving.http import REFUSED
from serving.metrics import ReplicaMetrics
from serving.refusals import refused
from store.errors import Conflict


class _Body:
    """A body that one can see go."""


@pytest.fixture
def unswept() -> Generator[None]:
    """Nobody looks for cycles."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def _read(scope: dict[str, Any]) -> None:
    """Fail as a handler does: a library's error becomes ours, in frames that know the request."""
    body = scope["body"]
    assert body is not None
    try:
        TypeAdapter(list[int]).validate_python([scope["path"]])
    except ValidationError as error:
        raise refusal_of(error, "instances", EXPECTED) from None


@pytest.mark.usefixtures("unswept")
def test_errors_behind_it_keep_nothing_either_even_where_they_are_behind_each_other() -> None:
    def fail(scope: dict[str, Any]) -> None:
        body, first = scope["body"], Conflict("first")
        try:
            try:
                raise first
            except Conflict as error:
                raise Conflict(f"second, of {type(body).__name__}") from error
        except Conflict as second:
            raise first from second

    body = _Body()
    kept = weakref.ref(body)
    scope = {"body": body}
    try:
        fail(scope)
    except Conflict as error:
        refused(ReplicaMetrics(), "/models/{model}/predict", scope, error)
    del body, scope
    assert kept() is None


@pytest.mark.usefixtures("unswept")
def test_its_body_is_freed_before_anybody_looks_for_cycles() -> None:
    def handle(scope: dict[str, Any]) -> int:
        try:
            _read(scope)
        except Exception as error:
            return refused(ReplicaMetrics(), "/models/{model}/predict", scope, error).status_code
        return 200

    body = _Body()
    kept = weakref.ref(body)
    scope = {"body": body, "path": "no number"}
    assert handle(scope) == 422
    assert "input should be a valid integer" in str(scope[REFUSED]).lower()
    del body, scope
    assert kept() is None
