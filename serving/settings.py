"""What a replica is told when it starts; read once at the entry point and passed down."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.admission import MOST_AT_WORK
from store.telemetry import QUIET, Telemetry


class ServingSettings(BaseModel):
    """Limits are per request or per replica. `token` guards the operator routes."""

    model_config = ConfigDict(frozen=True)

    redis_url: str
    prefix: str = "tidemill"
    token: str = Field(default="", repr=False)
    api_key: str = Field(default="", repr=False)
    """One key for predictions that is given from outside, such as by a container's environment."""
    require_key: bool = False
    """Whether predictions need a key, as they must where others than this machine can reach the platform."""
    replicas: int = 1
    """Among how many replicas limits are divided before any have reported."""
    when_redis_is_away: Literal["durable", "available"] = "durable"
    """durable: 503 until predictions can be logged; available: answer, buffer, and count what was lost."""
    buffer_entries: int = 10_000
    max_body_bytes: int = 32 * 1024 * 1024
    max_import_bytes: int = 256 * 1024 * 1024
    """Of a model from elsewhere."""
    max_instances: int = 10_000
    max_at_work: int = MOST_AT_WORK
    """Predictions at work at a time."""
    max_ongoing: int = 1000
    """The same, with those whose bodies have not come yet."""
    stay_awake: bool = True
    """Keep the processors from halting under load, where the system lets this process."""
    trial_timeout_s: float = 1.0
    """How long an arm on trial may take before the default one answers instead."""
    shadow_queue: int = 1000
    telemetry: Telemetry = QUIET
    lease_s: float = 5.0
    redis_timeout_s: float = 5.0
