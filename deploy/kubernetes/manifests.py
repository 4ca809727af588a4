"""All of a platform's manifests, as objects and as YAML.

RayService       the platform itself, for KubeRay
StatefulSet      Valkey with its volume, and its Service
NetworkPolicy    Ray's pods run what they are sent: only they themselves and KubeRay reach more of them than the API
"""

import secrets

from deploy.kubernetes.parts import Manifest, metadata
from deploy.kubernetes.rayservice import ray_service, who_reaches_ray
from deploy.kubernetes.valkey import valkey
from deploy.kubernetes.values import Values


def platform(values: Values) -> list[Manifest]:
    """Return what `kubectl apply` takes; nothing in it is secret."""
    store = [] if values.redis.url_in_secret else valkey(values)
    return [*store, who_reaches_ray(values), ray_service(values)]


def secret(values: Values) -> Manifest:
    """Return the Secret that the platform's pods refer to, made anew at every call: for `kubectl create`, once."""
    words = {"token": secrets.token_urlsafe(32)}
    if not values.redis.url_in_secret:
        # Part of a URL, where a letter may mean something.
        words["valkey-password"] = secrets.token_hex(32)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(values, values.secret),
        "type": "Opaque",
        "stringData": words,
    }
