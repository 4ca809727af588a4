"""The RayService: Serve's config, a head that hosts nothing, workers, workers with GPUs if wanted, and who may reach them.

KubeRay makes the rest: pods, Ray's token, and the Service that clients call, by the platform's name.
"""

from importlib.metadata import version
from typing import Any

from deploy.kubernetes.parts import (
    REDIS_PORT,
    Manifest,
    exactly,
    from_secret,
    labels_of,
    metadata,
    no_privileges,
    policy,
    tcp,
    to_yaml,
    unprivileged,
    valkey_name,
)
from deploy.kubernetes.values import Resources, Values, Workers, amount, ray_cpus
from deploy.serve_app import IMPORT_PATH, Arguments, TrainerResources
from deploy.serve_settings import SERVE_ENVIRONMENT
from serving.scaling import Scaling

API_PORT = 8000
_DASHBOARD_PORT, _AGENT_PORT, _GCS_PORT = 8265, 52365, 6379
_USER = 10_001  # the image's; Kubernetes wants a number to know that it is not root
# Nothing here lives in Ray's object store, whose own choice is a third of the memory.
_OBJECT_STORE_BYTES = 200 * 2**20


def serve_config(values: Values) -> dict[str, Any]:
    """Return Serve's config, as `serve deploy` takes it too."""
    gpus = 1.0 if values.gpu_workers.enabled else 0.0
    replicas = values.replicas
    arguments = Arguments(
        specs=values.specs,
        prefix=values.prefix,
        when_redis_is_away=values.when_redis_is_away,
        telemetry=values.telemetry,
        replicas=Scaling(min_replicas=replicas.min, max_replicas=replicas.max, target_at_work=replicas.predictions_at_work),
        replica_cpus=float(amount(replicas.cpu)),
        trainer=TrainerResources(cpus=float(amount(values.trainer_cpu)), gpus=gpus),
    )
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": API_PORT},
        "applications": [
            {
                "name": "tidemill",
                "route_prefix": "/",
                "import_path": IMPORT_PATH,
                "args": arguments.model_dump(mode="json"),
            }
        ],
    }


def ray_service(values: Values) -> Manifest:
    groups = [_group(values, "workers", values.workers)]
    if values.gpu_workers.enabled:
        groups.append(_group(values, "gpu-workers", values.gpu_workers, values.gpu_workers.gpus))
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": metadata(values, values.name),
        "spec": {
            "serveConfigV2": to_yaml(serve_config(values)),
            "excludeHeadPodFromServeSvc": True,
            "serveService": {
                "metadata": metadata(values, values.name),
                "spec": {"type": values.service_type, "ports": [{"name": "serve", "port": API_PORT}]},
            },
            "rayClusterConfig": {
                "rayVersion": version("ray"),
                "authOptions": {"mode": "token"},
                "enableInTreeAutoscaling": True,
                "autoscalerOptions": {"idleTimeoutSeconds": 300, "securityContext": no_privileges()},
                "headGroupSpec": {
                    "rayStartParams": _start(cpus=0) | {"dashboard-host": "0.0.0.0"},
                    "template": _head(values),
                },
                "workerGroupSpecs": groups,
            },
        },
    }


def who_reaches_ray(values: Values) -> Manifest:
    among_themselves = {"from": [{"podSelector": {"matchLabels": labels_of(values, "ray")}}]}
    kuberay = {
        "from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kuberay-operator"}}}],
        "ports": tcp(_DASHBOARD_PORT, _AGENT_PORT),
    }
    return policy(values, "ray", [among_themselves, kuberay, {"ports": tcp(API_PORT)}])


def _group(values: Values, name: str, workers: Workers, gpus: int = 0) -> Manifest:
    return {
        "groupName": name,
        "replicas": workers.min,
        "minReplicas": workers.min,
        "maxReplicas": workers.max,
        "rayStartParams": _start(ray_cpus(workers)),
        "template": _worker(values, workers, gpus),
    }


def _start(cpus: int) -> dict[str, str]:
    return {"num-cpus": str(cpus), "object-store-memory": str(_OBJECT_STORE_BYTES)}


def _head(values: Values) -> Manifest:
    ports = {"gcs-server": _GCS_PORT, "dashboard": _DASHBOARD_PORT, "serve": API_PORT}
    container = _ray_container(values, "ray-head", values.head, ports)
    container["readinessProbe"] = _probe("/api/healthz", _AGENT_PORT, period=5, failures=12)
    return _ray_pod(values, container)


def _worker(values: Values, workers: Workers, gpus: int) -> Manifest:
    container = _ray_container(values, "ray-worker", workers, {"serve": API_PORT})
    # A pod gets requests while it has a proxy; whether a model can answer is said in the answer.
    container["readinessProbe"] = _probe("/-/healthz", API_PORT, period=5, failures=2)
    pod = _ray_pod(values, container)
    pod["spec"]["nodeSelector"] = dict(workers.node_selector)
    if gpus:
        for side in ("requests", "limits"):
            container["resources"][side]["nvidia.com/gpu"] = gpus
        pod["spec"]["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    return pod


def _ray_pod(values: Values, container: Manifest) -> Manifest:
    pod: Manifest = {
        "containers": [container],
        # Kubernetes would set TIDEMILL_PORT for a Service of that name, which is one of the platform's own settings.
        "enableServiceLinks": False,
        "automountServiceAccountToken": container["name"] == "ray-head",  # where the autoscaler asks for pods
        "securityContext": unprivileged(_USER, _USER),
        "terminationGracePeriodSeconds": 60,
    }
    if values.pull_secret is not None:
        pod["imagePullSecrets"] = [{"name": values.pull_secret}]
    return {"metadata": {"labels": labels_of(values, "ray")}, "spec": pod}


def _ray_container(values: Values, name: str, resources: Resources, ports: dict[str, int]) -> Manifest:
    plain = [{"name": key, "value": value} for key, value in (SERVE_ENVIRONMENT | {"RAY_SERVE_ENABLE_HA_PROXY": "1"}).items()]
    return {
        "name": name,
        "image": values.image,
        "env": [*plain, *_secret_environment(values)],
        "ports": [{"name": key, "containerPort": port} for key, port in ports.items()],
        "resources": exactly(resources),
        "livenessProbe": _probe("/api/healthz", _AGENT_PORT, period=5, failures=120),
        "securityContext": no_privileges(),
    }


def _secret_environment(values: Values) -> list[Manifest]:
    """TIDEMILL_TOKEN and TIDEMILL_REDIS_URL, which Kubernetes puts together: nobody writes the password twice."""
    token = from_secret(values, "TIDEMILL_TOKEN", "token")
    if values.redis.url_in_secret:
        return [token, from_secret(values, "TIDEMILL_REDIS_URL", "redis-url")]
    url = f"redis://:$(VALKEY_PASSWORD)@{valkey_name(values)}:{REDIS_PORT}/0"
    return [token, from_secret(values, "VALKEY_PASSWORD", "valkey-password"), {"name": "TIDEMILL_REDIS_URL", "value": url}]


def _probe(path: str, port: int, *, period: int, failures: int) -> Manifest:
    # Ray's agent and HAProxy take their time on a busy node; a second is Kubernetes' own patience.
    return {"httpGet": {"path": path, "port": port}, "periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": failures}
