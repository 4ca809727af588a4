"""The page shows what was found, and takes no name for markup."""

from pathlib import Path

from tuning.comparison import ArmResult, Interval, Pair, Result
from tuning.report import page, table, write_freshness

NAME = "<script>alert('m')</script>"


def _arm(**given: object) -> ArmResult:
    return ArmResult.model_validate(
        {"cadence": "never", "kind": "stateful", "extrapolated": False, "steps": 1, "carried_out": 1, "seconds": 2.0,
         "first_seconds": 2.0, "outcomes": 100, "scored": 50, "loss": 0.5, "auc": 0.7} | given
    )  # fmt: skip


def _result() -> Result:
    interval = Interval(mean=-0.01, low=-0.02, high=-0.005)
    arms = (
        _arm(),
        _arm(cadence="hourly", seconds=9.0, loss=0.45, over_never=interval),
        _arm(cadence="hourly", kind="stateless", extrapolated=True, steps=900, carried_out=20, seconds=812.25, loss=0.46),
    )
    pair = Pair(cadence="hourly", extrapolated=True, cost_ratio=90.25, updates_ratio=None, loss=interval, predictions=20)
    return Result(
        model=NAME, objective="binary", loss_name="log loss", window_days=30.0, passes=2, start=0.0, end=86_400.0,
        predictions=50, arms=arms, pairs=(pair,),
    )  # fmt: skip


def test_what_is_extrapolated_is_called_so(tmp_path: Path) -> None:
    write_freshness(tmp_path / "page.html", _result())
    written = (tmp_path / "page.html").read_text()
    assert "<td>812.2 (extrapolated)</td>" in written
    assert "<td>hourly, stateless (extrapolated)</td>" in written
    assert "<td>900, 20 carried out</td>" in written
    assert "<td>90.2 times</td>" in written
    assert "<td>-0.0100 [-0.0200, -0.0050]</td>" in written


def test_names_are_no_markup_and_nothing_comes_from_elsewhere(tmp_path: Path) -> None:
    write_freshness(tmp_path / "page.html", _result())
    written = (tmp_path / "page.html").read_text()
    assert "<script" not in written
    assert "The value of freshness: &lt;script&gt;" in written
    assert "src=" not in written
    assert "@import" not in written
    assert NAME not in table([NAME], [[NAME]]) + page(NAME, NAME, "")
