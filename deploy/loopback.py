"""Keeps Ray Serve's replicas off the network on a single machine.

Each replica opens a gRPC port on every interface and unpickles what arrives there without asking for Ray's token:
whoever reaches it runs code. Ray has no setting for that address, so it is changed where it is used. Ray calls
`listen_locally` in every worker before anything of Serve is imported; where it fails, the worker does not start.
"""

from typing import Any

from ray._common import tls_utils  # pyright: ignore[reportPrivateUsage]

_EVERYWHERE = "[::]:"


def listen_locally() -> None:
    bind = tls_utils.add_port_to_grpc_server

    def bind_locally(server: Any, address: str) -> int:
        return bind(server, address.replace(_EVERYWHERE, "127.0.0.1:", 1))

    tls_utils.add_port_to_grpc_server = bind_locally
