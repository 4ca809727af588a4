"""Versions as runs of MLflow: told in passing by whoever publishes them, logged by a thread of its own.

Learning neither waits for MLflow nor fails with it: a server that is away costs runs, which `missed` counts and `problem` says.
"""

import logging
import queue
import threading
from typing import Any

from store.errors import first_line
from store.protocols import Version

log = logging.getLogger(__name__)
WAITING = 1_000
"""Versions that wait at most; more are missed."""


class Untracked:
    """Where nothing is tracked."""

    problem = ""

    def tell(self, version: Version) -> None:
        """Let it pass."""


class Tracking:
    """Logs each version that it is told of as a run of the experiment `tidemill/MODEL`: hyperparameters are its params, losses
    its metrics, number, line, parent, positions and environment its tags.

    Args:
        uri: MLflow's tracking URI, such as http://mlflow:5000, file:/path or sqlite:////path.
    """

    def __init__(self, uri: str, model: str) -> None:
        self._uri, self._model = uri, model
        self._told: queue.Queue[Version | None] = queue.Queue(WAITING)
        self._client: Any = None
        self._experiment = ""
        self._newest = (0, "")
        self.missed = 0
        self.problem = ""
        """What keeps versions from being logged; empty where nothing does."""
        self._thread = threading.Thread(target=self._run, daemon=True, name="tracking")
        self._thread.start()

    def tell(self, version: Version) -> None:
        """Log a version soon; never blocks."""
        try:
            self._told.put_nowait(version)
        except queue.Full:
            self.missed += 1

    def close(self, patience_s: float = 10.0) -> None:
        """Wait until what was told is logged, but no longer than that."""
        try:
            self._told.put(None, timeout=patience_s)
        except queue.Full:
            return
        self._thread.join(patience_s)

    def _run(self) -> None:
        while (version := self._told.get()) is not None:
            try:
                self._log(version)
                self.problem = ""
            except ImportError:
                self._miss("MLflow is not installed where trainers run: pip install 'tidemill[tracking]'")
            except Exception as error:  # of many kinds, and none of them may reach the learner
                self._miss(f"version {version.number} is not logged: {first_line(error, 200)}")

    def _miss(self, problem: str) -> None:
        self.missed += 1
        if not self.problem:
            log.warning("MLflow at %s does not take versions of %s: %s", self._uri, self._model, problem)
        self.problem = f"{problem} ({self.missed} missed)"

    def _log(self, version: Version) -> None:
        # An extra, and slow to import.
        from mlflow.entities import Metric, Param  # noqa: PLC0415

        if self._client is None:
            self._client, self._experiment = _opened(self._uri, self._model)
        client, at = self._client, int(version.created_at * 1000)
        tags = _tags(version, self._parent(client, version))
        run = client.create_run(self._experiment, at, tags, f"{version.model} {version.number}").info.run_id
        metrics = [Metric(key, value, at, version.number) for key, value in version.metrics.items()]
        learning: dict[str, Any] = version.lineage.get("learning", {})
        client.log_batch(
            run,
            [*metrics, Metric("outcomes", version.outcomes, at, version.number)],
            [Param(key, str(value)) for key, value in learning.items()],
        )
        client.set_terminated(run, "FINISHED" if version.status == "published" else "FAILED", at)
        if version.status == "published":
            self._newest = version.number, run

    def _parent(self, client: Any, version: Version) -> str:
        """The run of a version's parent; one that an earlier process logged is looked up."""
        number, run = self._newest
        if not version.parent or number == version.parent:
            return run if version.parent else ""
        found = client.search_runs([self._experiment], f"tags.`tidemill.version` = '{version.parent}'", max_results=1)
        return found[0].info.run_id if found else ""


def tracking(uri: str, model: str) -> Tracking | Untracked:
    """Return what is told of a model's versions."""
    return Tracking(uri, model) if uri else Untracked()


def _opened(uri: str, model: str) -> tuple[Any, str]:
    from mlflow.tracking import MlflowClient  # noqa: PLC0415 - an extra, and slow to import

    client: Any = MlflowClient(tracking_uri=uri)
    name = f"tidemill/{model}"
    known = client.get_experiment_by_name(name)
    return client, known.experiment_id if known is not None else client.create_experiment(name)


def _tags(version: Version, parent_run: str) -> dict[str, str]:
    tags = {
        "tidemill.version": str(version.number),
        "tidemill.line": version.line,
        "tidemill.status": version.status,
        "tidemill.parent": str(version.parent),
        "tidemill.position": version.position,
        "tidemill.log_position": version.log_position,
        "tidemill.spec": version.spec,
        "tidemill.weights": version.weights,
        "tidemill.cut": str(version.lineage.get("cut", "")),
    }
    environment: dict[str, Any] = version.lineage.get("environment", {})
    tags |= {f"tidemill.{key}": str(value) for key, value in environment.items()}
    if version.reason:
        tags["tidemill.reason"] = version.reason
    return tags | ({"tidemill.parent_run": parent_run} if parent_run else {})
