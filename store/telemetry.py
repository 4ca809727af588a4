"""What operators see of a process beside its metrics: where its traces and versions go, and what its log looks
like."""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from store import logs, tracing


def _collector(url: str) -> str:
    if url and not re.match(r"https?://[^\s/]", url):
        raise ValueError(f"'{url}' is no collector's address; expected one such as http://collector:4318")
    return url


Collector = Annotated[str, AfterValidator(_collector)]
"""Where OTLP over HTTP is taken, without /v1/traces; empty: nowhere."""


class Telemetry(BaseModel):
    """The same for all processes of a platform; each calls `start` once it runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    traces: Collector = ""
    log_format: logs.LogFormat = "text"
    tracking: str = ""
    """Where trainers log a run for each version: MLflow's tracking URI; empty: nowhere."""

    def check(self) -> None:
        """Raise TracesUnavailable where traces are asked for that cannot be sent."""
        if self.traces:
            tracing.check()

    def start(self, role: str, name: str) -> None:
        """Set this process up.

        Args:
            role, name: who it is, such as replica and a replica's name: each line of its log says so, and each of its spans.

        Raises:
            TracesUnavailable.
        """
        logs.configure(self.log_format, **{role: name})
        self.trace(f"{role}:{name}")

    def trace(self, instance: str) -> None:
        """Send traces, if any are wanted; raises TracesUnavailable."""
        if self.traces:
            tracing.start(self.traces, instance)


QUIET = Telemetry()
