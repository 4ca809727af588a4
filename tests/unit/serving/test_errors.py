"""Every domain error has its HTTP status, and nothing else tells a client more than that it failed."""

import json
from collections.abc import Iterator

import pytest

import router
import store.embedded
import store.redis_server
from serving.errors import STATUS, ServingError, UnknownModel, status_of
from serving.http import refusal
from store.errors import ArchiveBusy, EpochConflict, StoreError

# These end a command before anything is served, or are said by a trainer.
NOT_SERVED = {ArchiveBusy, store.embedded.DataDirectoryInUse, store.embedded.ServerFailed, store.redis_server.NoServer}


def _family(root: type[Exception]) -> Iterator[type[Exception]]:
    yield root
    for child in root.__subclasses__():
        yield from _family(child)


def test_every_domain_error_is_in_the_table() -> None:
    assert router.__name__
    shipped = {"store", "router", "serving"}
    domain = {error for root in (ServingError, StoreError) for error in _family(root)}
    domain = {error for error in domain if error.__module__.partition(".")[0] in shipped}
    assert domain - NOT_SERVED - set(STATUS) == set()
    assert set(STATUS) - domain == set()


def test_every_status_is_one_of_an_error() -> None:
    assert all(400 <= status < 600 for status in STATUS.values())


def test_an_error_that_is_not_in_the_table_has_the_status_of_its_parent() -> None:
    class Rarer(UnknownModel):
        pass

    assert status_of(Rarer("m", [])) == 404
    assert status_of(ZeroDivisionError()) == 500


@pytest.mark.parametrize("kind", sorted({503, 429} & set(STATUS.values())))
def test_who_should_come_again_is_told_when(kind: int) -> None:
    for error in (error for error, status in STATUS.items() if status == kind):
        response = refusal(error("later"))
        assert response.status_code == kind
        assert int(response.headers["retry-after"]) > 0


def test_a_refusal_says_what_is_wrong() -> None:
    response = refusal(EpochConflict("m", 1, 2))
    assert response.status_code == 409
    assert json.loads(bytes(response.body))["error"] == str(EpochConflict("m", 1, 2))


def test_the_unforeseen_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    response = refusal(ZeroDivisionError("secret"))
    assert response.status_code == 500
    assert b"secret" not in bytes(response.body)
    assert "ZeroDivisionError: secret" in caplog.text
