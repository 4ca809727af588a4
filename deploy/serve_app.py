"""The platform as one Serve application, for a Serve config file: on a cluster nothing else is started.

    import_path: deploy.serve_app:build
    args: {specs: ["my_model:spec"]}

Besides the ingress it has a deployment of one replica for the controllers, one for the label join of imported models, and
one for the supervisor of trainers, which are actors that it owns. So Serve and Ray place them, start them again wherever
there is room when they or their node die, and end them with the application. While clusters are replaced, two trainers may
work on one model: the store lets only one of them commit. What is secret comes from the nodes' environment, never from the
file.

The specs are put on record; models that were added beside them have trainers too, and one of them that was removed stays
removed.
"""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from ray import serve

from deploy.supervisor import SupervisorActor
from serving.app import application
from serving.control_actor import ControlActor
from serving.scaling import Scaling
from serving.settings import ServingSettings
from store.spec import declared
from store.telemetry import Telemetry
from trainer.archiving import NO_ARCHIVE, ArchiveSettings
from trainer.joiner import JoinActor

IMPORT_PATH = "deploy.serve_app:build"


class Secrets(BaseSettings):
    """What every node of the cluster has in its environment: TIDEMILL_REDIS_URL and TIDEMILL_TOKEN."""

    model_config = SettingsConfigDict(env_prefix="TIDEMILL_", frozen=True)

    redis_url: str = ""
    """Redis or Valkey, with its password."""
    token: str = ""
    """The operators' token."""
    api_key: str = ""
    """A key for predictions, if one is wanted beside those of `tidemill key`."""

    def checked(self) -> Self:
        """Return self.

        Raises:
            ValueError: one is missing; without a token, everybody would be an operator, or nobody.
        """
        missing = [f"TIDEMILL_{name.upper()}" for name in ("redis_url", "token") if not getattr(self, name)]
        if missing:
            raise ValueError(f"{' and '.join(missing)} must be in the environment of every node of the cluster")
        return self


class TrainerResources(BaseModel):
    """What each trainer asks Ray for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpus: float = Field(default=1.0, gt=0)
    gpus: float = Field(default=0.0, ge=0)


class Arguments(BaseModel):
    """The `args` of the application in the config file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    specs: tuple[str, ...] = Field(min_length=1)
    """ModelSpecs as package.module:attribute, importable on every node."""
    prefix: str = "tidemill"
    when_redis_is_away: Literal["durable", "available"] = "durable"
    telemetry: Telemetry = Telemetry(log_format="json")
    replicas: Scaling = Scaling()
    replica_cpus: float = Field(default=1.0, gt=0)
    trainer: TrainerResources = TrainerResources()
    archive: ArchiveSettings = NO_ARCHIVE
    """Where outcomes are kept for good; with none, they are dropped when they are a week old."""


def build(arguments: Arguments) -> serve.Application:
    """Return the application; Serve calls this on the cluster.

    Raises:
        SpecError, ValueError, TracesUnavailable: a spec cannot be imported, a secret is missing, or the extra that traces need.
            The application then fails to deploy, and `serve status` has that text.
    """
    arguments.telemetry.check()
    secrets = Secrets().checked()
    url, prefix = secrets.redis_url, arguments.prefix
    settings = ServingSettings(
        redis_url=url,
        prefix=prefix,
        token=secrets.token,
        api_key=secrets.api_key,
        require_key=True,
        replicas=arguments.replicas.max_replicas,
        when_redis_is_away=arguments.when_redis_is_away,
        telemetry=arguments.telemetry,
    )
    asked = {"num_cpus": arguments.trainer.cpus, "num_gpus": arguments.trainer.gpus}
    records = [declared(path) for path in arguments.specs]
    telemetry = arguments.telemetry
    supervisor = _worker("supervisor", SupervisorActor, num_cpus=0.1).bind(
        url, prefix, asked, None, records, telemetry, arguments.archive
    )
    controller = _worker("controller", ControlActor, num_cpus=0.1).bind(url, prefix, telemetry)
    joiner = _worker("joiner", JoinActor, num_cpus=0.1).bind(url, prefix, telemetry, arguments.archive)
    workers = [controller, joiner, supervisor]
    return application(settings, arguments.replicas, cpus=arguments.replica_cpus, workers=workers)


def _worker(name: str, work: type, **resources: float) -> Any:
    """A deployment that works in a thread of its own, and that nobody calls."""
    return serve.deployment(
        name=name,
        num_replicas=1,
        ray_actor_options=dict(resources),
        health_check_timeout_s=120,
        graceful_shutdown_timeout_s=5,
        logging_config={"log_level": "WARNING"},
    )(work)
