"""What the manifests have in common."""

from collections.abc import Sequence
from typing import Any

import yaml

from deploy.kubernetes.values import Resources, Values

Manifest = dict[str, Any]

REDIS_PORT = 6379


def metadata(values: Values, name: str) -> Manifest:
    return {"name": name, "namespace": values.namespace, "labels": {"tidemill": values.name}}


def labels_of(values: Values, part: str) -> dict[str, str]:
    return {"tidemill": values.name, "tidemill-part": part}


def exactly(resources: Resources) -> Manifest:
    """Asked for and not exceeded."""
    asked = {"cpu": resources.cpu, "memory": resources.memory}
    return {"requests": dict(asked), "limits": dict(asked)}


def no_privileges() -> Manifest:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def unprivileged(user: int, group: int) -> Manifest:
    """A pod's user. The volumes are its group's; Kubernetes wants numbers to know that it is not root."""
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": group,
        "fsGroup": group,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def from_secret(values: Values, name: str, key: str) -> Manifest:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": values.secret, "key": key}}}


def valkey_name(values: Values) -> str:
    return f"{values.name}-valkey"


def policy(values: Values, part: str, ingress: Sequence[Manifest]) -> Manifest:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(values, f"{values.name}-{part}"),
        "spec": {
            "podSelector": {"matchLabels": labels_of(values, part)},
            "policyTypes": ["Ingress"],
            "ingress": list(ingress),
        },
    }


def tcp(*ports: int) -> list[Manifest]:
    return [{"protocol": "TCP", "port": port} for port in ports]


def to_yaml(*manifests: Manifest) -> str:
    """Return one YAML document per manifest."""
    return yaml.dump_all(manifests, Dumper=_Dumper, sort_keys=False, width=120, explicit_start=len(manifests) > 1)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such, and says everything in full where YAML would refer to an earlier place."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
