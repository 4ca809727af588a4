"""The builder that Serve calls on a cluster."""

import pytest

from deploy.serve_app import Arguments, build
from store.spec import SpecError

FLIGHTS = Arguments(specs=("examples.flights:spec",))


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_REDIS_URL", "redis://nowhere")
    monkeypatch.setenv("TIDEMILL_TOKEN", "secret")


def test_it_builds_before_redis_is_there() -> None:
    assert build(FLIGHTS)


@pytest.mark.parametrize("missing", ["TIDEMILL_REDIS_URL", "TIDEMILL_TOKEN"])
def test_without_a_secret_nothing_is_deployed(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(missing)
    with pytest.raises(ValueError, match=f"^{missing} must be in the environment of every node"):
        build(FLIGHTS)


def test_a_spec_that_is_not_in_the_image_is_named() -> None:
    with pytest.raises(SpecError, match="spec 'nowhere:spec': cannot import nowhere"):
        build(Arguments(specs=("nowhere:spec",)))
