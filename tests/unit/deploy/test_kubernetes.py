"""The manifests: what the API server would refuse, and what it would take and would not work."""

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema
from typer.testing import CliRunner

from deploy.cli import app
from deploy.kubernetes.manifests import platform, secret
from deploy.kubernetes.values import Values, read_values
from deploy.serve_app import Arguments

VALUES_FILE = Path(__file__).parents[3] / "deploy/kubernetes/values.yaml"
SCHEMA: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "schemas/rayservice.yaml").read_text())
OLDEST, NEWEST = "1.27", "1.36"
QUANTITY = re.compile(
    r"(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?"
)
"""As KubeRay's own definition has it."""
AGENT = {52365: {"/api/healthz"}}
"""Ray's agent listens there in every pod, and asks for no token on that path."""
PROXY_PATHS = {"/-/healthz"}

LEAST: dict[str, Any] = {"image": "registry/tidemill:1", "specs": ["my_model:spec"]}
CASES: dict[str, dict[str, Any]] = {
    "least": {},
    "many": {"name": "flights", "namespace": "ml", "specs": ["a:spec", "b:spec"], "replicas": {"min": 1, "max": 9}},
    "gpu": {"gpu_workers": {"enabled": True, "max": 2, "node_selector": {"gpu": "yes"}}, "pull_secret": "registry"},
    "managed": {"redis": {"url_in_secret": True}, "secret": "words", "service_type": "LoadBalancer"},
    "storage": {"redis": {"storage": "1Ti", "storage_class": "fast", "resources": {"cpu": 2, "memory": "4Gi"}}},
}


@pytest.fixture(params=CASES, name="values")
def _values(request: pytest.FixtureRequest) -> Values:
    return Values.model_validate(LEAST | CASES[request.param])


def _ray(values: Values) -> dict[str, Any]:
    return next(manifest for manifest in platform(values) if manifest["kind"] == "RayService")["spec"]


def _groups(values: Values) -> list[dict[str, Any]]:
    cluster = _ray(values)["rayClusterConfig"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def _pods(values: Values) -> Iterator[dict[str, Any]]:
    """Every pod's template."""
    yield from (group["template"] for group in _groups(values))
    yield from (it["spec"]["template"] for it in platform(values) if it["kind"] == "StatefulSet")


def _containers(values: Values) -> Iterator[dict[str, Any]]:
    for pod in _pods(values):
        yield from pod["spec"]["containers"]


def _closed(schema: Any) -> Any:
    """The schema as `kubectl apply` has it, which refuses fields that are not defined."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(part) for key, part in schema.items()}
    return closed | ({"additionalProperties": False} if isinstance(schema.get("properties"), dict) and "type" in schema else {})


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_kubernetes_takes_them(values: Values, version: str) -> None:
    template = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}}
    service = {"apiVersion": "v1", "kind": "Service", **_ray(values)["serveService"]}
    own = [manifest for manifest in platform(values) if manifest["kind"] != "RayService"]
    for manifest in [*own, secret(values), service, *(template | {"template": pod} for pod in _pods(values))]:
        kubernetes_validate.validate(manifest, version, strict=True)


def test_kuberay_takes_the_ray_service(values: Values) -> None:
    [ray_service] = [manifest for manifest in platform(values) if manifest["kind"] == "RayService"]
    jsonschema.validate(ray_service, _closed(SCHEMA))


def test_what_kuberay_does_not_know_would_be_noticed() -> None:
    [ray_service] = [manifest for manifest in platform(Values(**LEAST)) if manifest["kind"] == "RayService"]
    ray_service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["maxReplica"] = 3
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        jsonschema.validate(ray_service, _closed(SCHEMA))


def test_yaml_says_the_same(values: Values, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(values.model_dump_json())
    printed = CliRunner().invoke(app, ["manifests", "--values", str(file)])
    assert printed.exit_code == 0, printed.output
    assert list(yaml.safe_load_all(printed.stdout)) == json.loads(json.dumps(platform(values)))


def test_serve_takes_its_config_and_the_builder_its_arguments(values: Values) -> None:
    config = ServeDeploySchema.model_validate(yaml.safe_load(_ray(values)["serveConfigV2"]))
    [application] = config.applications
    arguments = Arguments.model_validate(application.args)
    assert (arguments.specs, arguments.prefix) == (values.specs, values.prefix)
    assert (arguments.replicas.min_replicas, arguments.replicas.max_replicas) == (values.replicas.min, values.replicas.max)
    module, _, attribute = application.import_path.partition(":")
    assert callable(getattr(importlib.import_module(module), attribute))


def test_every_word_comes_from_the_secret_that_is_made(values: Values) -> None:
    made = set(secret(values)["stringData"]) | ({"redis-url"} if values.redis.url_in_secret else set())
    asked = [
        variable["valueFrom"]["secretKeyRef"]
        for container in _containers(values)
        for variable in container["env"]
        if "valueFrom" in variable
    ]
    assert {it["name"] for it in asked} == {values.secret}
    assert {it["key"] for it in asked} == made


def test_no_word_stands_in_them(values: Values) -> None:
    for container in _containers(values):
        known: set[str] = set()
        for variable in container["env"]:
            said = variable.get("value", "")
            if re.search("TOKEN|PASSWORD|AUTH|URL", variable["name"]):
                assert "valueFrom" in variable or re.search(r"://:\$\(\w+\)@", said), variable
            # Kubernetes puts in what stands before, and leaves anything else as it is.
            assert set(re.findall(r"\$\((\w+)\)", said)) <= known, variable
            known.add(variable["name"])
        assert set(re.findall(r"\$\((\w+)\)", " ".join(container.get("args", [])))) <= known


def test_words_are_new_each_time() -> None:
    values = Values(**LEAST)
    first, second = (secret(values)["stringData"] for _ in range(2))
    assert all(len(first[key]) >= 32 and first[key] != second[key] for key in first)


def test_probes_ask_for_what_is_there(values: Values) -> None:
    for container in _containers(values):
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        answered = AGENT | {ports.get("serve"): PROXY_PATHS}
        for kind in ("livenessProbe", "readinessProbe"):
            probe = container[kind]
            if "httpGet" in probe:
                assert probe["httpGet"]["path"] in answered[probe["httpGet"]["port"]]
            else:
                assert probe["exec"]["command"] == ["valkey-cli", "-e", "ping"]


def test_ports_agree(values: Values) -> None:
    config = yaml.safe_load(_ray(values)["serveConfigV2"])
    [port] = _ray(values)["serveService"]["spec"]["ports"]
    assert port["name"] == "serve"  # the name that KubeRay looks for
    assert config["http_options"]["port"] == port["port"]
    for group in _groups(values):
        [container] = group["template"]["spec"]["containers"]
        assert {"name": "serve", "containerPort": port["port"]} in container["ports"]


def test_valkey_is_where_the_platform_looks_for_it(values: Values) -> None:
    found = {manifest["kind"]: manifest for manifest in platform(values)}
    if values.redis.url_in_secret:
        assert "StatefulSet" not in found
        return
    [port] = found["Service"]["spec"]["ports"]
    where = f"@{found['Service']['metadata']['name']}:{port['port']}/0"
    for group in _groups(values):
        environment = {it["name"]: it.get("value", "") for it in group["template"]["spec"]["containers"][0]["env"]}
        assert environment["TIDEMILL_REDIS_URL"].endswith(where)
    pods = found["StatefulSet"]["spec"]
    assert pods["template"]["metadata"]["labels"] == pods["selector"]["matchLabels"] == found["Service"]["spec"]["selector"]
    assert pods["serviceName"] == found["Service"]["metadata"]["name"]
    [container] = pods["template"]["spec"]["containers"]
    assert port["port"] in [it["containerPort"] for it in container["ports"]]
    given = dict(zip(container["args"][::2], container["args"][1::2], strict=True))
    assert (given["--appendonly"], given["--appendfsync"], given["--maxmemory-policy"]) == ("yes", "always", "noeviction")
    [mount], [claim] = container["volumeMounts"], pods["volumeClaimTemplates"]
    assert (mount["name"], mount["mountPath"]) == (claim["metadata"]["name"], given["--dir"])


def test_every_pod_is_behind_a_policy_that_lets_in_the_api_alone(values: Values) -> None:
    policies = [manifest["spec"] for manifest in platform(values) if manifest["kind"] == "NetworkPolicy"]
    for pod in _pods(values):
        labels = pod["metadata"]["labels"]
        [policy] = [it for it in policies if it["podSelector"]["matchLabels"].items() <= labels.items()]
        for rule in policy["ingress"]:
            open_ports = [it["port"] for it in rule.get("ports", [])]
            assert "from" in rule or open_ports == [8000]


def test_quantities_are_quantities(values: Values) -> None:
    for container in _containers(values):
        assert container["resources"]["requests"] == container["resources"]["limits"]
        for quantity in container["resources"]["limits"].values():
            assert QUANTITY.fullmatch(str(quantity)), quantity


def test_ray_is_told_what_its_pods_have(values: Values) -> None:
    head, *workers = _groups(values)
    assert head["rayStartParams"]["num-cpus"] == "0"
    for group in workers:
        [container] = group["template"]["spec"]["containers"]
        assert group["rayStartParams"]["num-cpus"] == container["resources"]["limits"]["cpu"]
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_trainers_ask_for_gpus_where_there_are_some(values: Values) -> None:
    [application] = yaml.safe_load(_ray(values)["serveConfigV2"])["applications"]
    groups = {group["groupName"]: group for group in _groups(values)[1:]}
    assert ("gpu-workers" in groups) == values.gpu_workers.enabled == (application["args"]["trainer"]["gpus"] == 1)
    if values.gpu_workers.enabled:
        pod = groups["gpu-workers"]["template"]["spec"]
        assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == values.gpu_workers.gpus
        assert pod["nodeSelector"] == values.gpu_workers.node_selector


def test_nothing_runs_as_root_or_may_become_it(values: Values) -> None:
    for pod in _pods(values):
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        assert pod["spec"]["securityContext"]["runAsUser"] > 0
    for container in _containers(values):
        assert container["securityContext"]["allowPrivilegeEscalation"] is False


def test_the_file_to_copy_says_the_defaults() -> None:
    said = read_values(VALUES_FILE)
    assert said == Values(image=said.image, specs=said.specs)
    assert set(yaml.safe_load(VALUES_FILE.read_text())) == set(Values.model_fields)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("specs: [a:b]", "image: Field required"),
        ("image: x\nspecs: []", "specs: Tuple should have at least 1 item"),
        ("image: x\nspecs: [a:b]\nreplica: 3", "replica: there is no such field"),
        ("image: x\nspecs: [a:b]\nname: My Platform", "name: String should match pattern"),
        ("image: x\nspecs: [a:b]\nworkers: {cpu: lots, memory: 8Gi}", "workers.cpu: 'lots' is no quantity; write it as"),
        ("image: x\nspecs: [a:b]\nworkers: {cpu: 0, memory: 8Gi}", "workers.cpu: must be more than 0"),
        ("image: x\nspecs: [a:b]\nreplicas: {min: 3, max: 2}", "replicas: max, 2, must be at least min, 3"),
        ("image: x\nspecs: [a:b]\nreplicas: {cpu: 8}", "replicas.cpu is 8, and a pod of its group has 4 CPUs"),
        ("image: x\nspecs: [a:b]\nreplicas: {max: 40}", "replicas.max, trainers and controllers ask for 41.2"),
        ("image: x\nspecs: [a:b, c:d]\ngpu_workers: {enabled: true}", "each of 2 trainers needs one"),
        ("image: [", "is no YAML"),
        ("[]", "Input should be a valid dictionary"),
    ],
)
def test_what_is_wrong_is_said_by_field(tmp_path: Path, given: str, said: str) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(given)
    done = CliRunner().invoke(app, ["manifests", "--values", str(file)])
    assert done.exit_code == 1
    assert said in done.output
