"""Quality over the year of flights: the platform's, the frozen model's, and River's by the same protocol."""

from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from deploy.demo import run_demo
from deploy.quality import Books, Quality
from deploy.settings import Settings
from deploy.show import FREEZE_AT
from examples.flights.stream import Flight, hours, load

console = Console(width=120)


def year(until: str = "2013-12-31", seed: int = 0) -> None:
    """Replay through the platform, then River's logistic regression; print both from 1 March on."""
    findings = run_demo(Settings(home=Path(".demo")), until=until, seed=seed, keep_running=False, report=Path("report"))
    rows = {"Tidemill, live": findings.live, "Tidemill, frozen on 1 March": findings.frozen, "River": river(until)}
    for name, side in rows.items():
        console.print(f"{name:30} from 1 March: AUC {side.auc:.4f}  log loss {side.log_loss:.4f}  ({side.rows:,} flights)")
    console.print(f"live above frozen: {findings.live.auc - findings.frozen.auc:+.4f} AUC")


def river(until: str) -> Quality:
    """River's logistic regression with AdaGrad, its labels by the hour as they arrive, one pass."""
    from river import compose, linear_model, optim, preprocessing  # noqa: PLC0415 - only here

    numbers: Any = compose.SelectType(float, int) | preprocessing.StandardScaler()
    categories: Any = compose.SelectType(str) | preprocessing.OneHotEncoder()
    model: Any = (numbers + categories) | linear_model.LogisticRegression(optimizer=optim.AdaGrad(0.1))
    books = Books()
    flights = load(date.fromisoformat(until) + timedelta(days=1))
    for hour in track(list(hours(flights)), description="River", console=console):
        for flight in hour.labels:
            model.learn_one(_river_features(flight), flight.late)
        for minute in hour.minutes:
            books.predicted(minute, [model.predict_proba_one(_river_features(flight)).get(True, 0.5) for flight in minute])
    return books.since(FREEZE_AT)[0]


def _river_features(flight: Flight) -> dict[str, float | str]:
    departure = datetime.fromisoformat(str(flight.features["departure"]))
    known = {
        name: value for name, value in flight.features.items() if value is not None and name not in ("departure", "origin_day")
    }
    return {**known, "hour": str(departure.hour), "weekday": str(departure.weekday())}
