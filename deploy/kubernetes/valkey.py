"""Valkey: one server, which has on disk what it acknowledged and evicts nothing, its Service, and who may reach it."""

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
    unprivileged,
    valkey_name,
)
from deploy.kubernetes.values import Values

_USER, _GROUP = 999, 1000  # the image's


def valkey(values: Values) -> list[Manifest]:
    return [_service(values), _server(values), _who_reaches_it(values)]


def _service(values: Values) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(values, valkey_name(values)),
        "spec": {"selector": labels_of(values, "valkey"), "ports": [{"name": "redis", "port": REDIS_PORT}]},
    }


def _server(values: Values) -> Manifest:
    redis, name, labels = values.redis, valkey_name(values), labels_of(values, "valkey")
    claim: Manifest = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": redis.storage}}}
    if redis.storage_class is not None:
        claim["storageClassName"] = redis.storage_class
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata(values, name),
        "spec": {
            "serviceName": name,
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "containers": [_container(values)],
                    "enableServiceLinks": False,
                    "automountServiceAccountToken": False,
                    "securityContext": unprivileged(_USER, _GROUP),
                    "terminationGracePeriodSeconds": 60,
                },
            },
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim}],
        },
    }


def _container(values: Values) -> Manifest:
    ping = {"exec": {"command": ["valkey-cli", "-e", "ping"]}, "periodSeconds": 5, "timeoutSeconds": 3}
    return {
        "name": "valkey",
        "image": values.redis.image,
        "command": ["valkey-server"],
        # On disk before it is acknowledged, and never evicted.
        "args": [
            *("--dir", "/data", "--appendonly", "yes", "--appendfsync", "always", "--save", ""),
            *("--maxmemory-policy", "noeviction", "--requirepass", "$(VALKEY_PASSWORD)"),
        ],
        "env": [
            from_secret(values, "VALKEY_PASSWORD", "valkey-password"),
            from_secret(values, "REDISCLI_AUTH", "valkey-password"),  # for the probes' valkey-cli
        ],
        "ports": [{"name": "redis", "containerPort": REDIS_PORT}],
        "resources": exactly(values.redis.resources),
        # It reads its file for as long as it has to; then it must answer.
        "startupProbe": ping | {"failureThreshold": 360},
        "readinessProbe": ping | {"failureThreshold": 2},
        "livenessProbe": ping | {"failureThreshold": 12},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        "securityContext": no_privileges() | {"readOnlyRootFilesystem": True},
    }


def _who_reaches_it(values: Values) -> Manifest:
    from_ray = {"from": [{"podSelector": {"matchLabels": labels_of(values, "ray")}}], "ports": tcp(REDIS_PORT)}
    return policy(values, "valkey", [from_ray])
