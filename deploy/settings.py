"""How a platform is run on this machine: from the environment (TIDEMILL_…), overridden by the command line."""

from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from serving.admission import MOST_AT_WORK
from store.logs import LogFormat
from store.telemetry import Collector, Telemetry
from trainer.archiving import ArchiveSettings


class Settings(BaseSettings):
    """`home` holds everything that lasts: Redis's data, the operators' token, logs."""

    model_config = SettingsConfigDict(env_prefix="TIDEMILL_", frozen=True)

    home: Path = Path(".tidemill")
    redis_url: str = ""
    """An existing Redis or Valkey; empty starts one."""
    api_key: str = Field(default="", repr=False)
    """A key for predictions, beside those of `tidemill key`: for containers, whose secrets come from outside."""
    require_key: bool = False
    """Predictions need a key on loopback, too, such as behind a proxy."""
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65_535)
    replicas: int = Field(default=1, ge=1, le=64)
    """Two have better tails, even where they share processors: when one pauses, the other answers."""
    prefix: str = "tidemill"
    max_import_bytes: int = Field(default=256 * 1024 * 1024, ge=1)
    """The largest model from elsewhere that is taken."""
    max_at_work: int = Field(default=MOST_AT_WORK, ge=1)
    """Requests that each replica works on at a time; more are answered 503."""
    stay_awake: bool = True
    """Keep the processors from halting under load: lower latencies for more power, where root runs the platform on Linux."""
    when_redis_is_away: Literal["durable", "available"] = "durable"
    traces: Collector = ""
    """Where to send traces: a collector of OTLP over HTTP, such as http://collector:4318; empty: nowhere."""
    log_format: LogFormat = "text"
    mlflow_uri: str = ""
    """Where each version is logged as a run, MLflow's tracking URI such as sqlite:////var/lib/mlflow.db; empty: nowhere."""
    haproxy: bool | None = None
    """None: where it is to be had."""
    trainer_gpus: float = Field(default=0.0, ge=0)
    """Of each trainer; two share a GPU with 0.5 each."""
    archive: Path | None = None
    """Where outcomes are kept for good; None: in `home`."""
    archive_every_s: float = Field(default=600.0, ge=0)
    """A file is written at least so often, if there is anything to write."""
    seed: int | None = None
    """Replaces the specs' own seed of the initial weights."""

    @property
    def archive_folder(self) -> Path:
        return (self.archive or self.home / "archive").absolute()

    @property
    def archiving(self) -> ArchiveSettings:
        return ArchiveSettings(folder=str(self.archive_folder), every_s=self.archive_every_s)

    @property
    def telemetry(self) -> Telemetry:
        return Telemetry(traces=self.traces, log_format=self.log_format, tracking=self.mlflow_uri)

    @property
    def needs_key(self) -> bool:
        """Whether predictions need a key: always where others than this machine may reach the platform."""
        try:
            public = not ip_address(self.host).is_loopback
        except ValueError:
            public = self.host != "localhost"
        return public or self.require_key


class Elsewhere(BaseSettings):
    """A platform that was not started here, such as one on a cluster: with a `url`, the commands talk to that one."""

    model_config = SettingsConfigDict(env_prefix="TIDEMILL_", frozen=True)

    url: str = ""
    token: str = ""
    """Its operators' token."""
