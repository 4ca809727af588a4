"""A Ray of our own on one machine: on loopback only, and gone without a trace however this process ends."""

import contextlib
import errno
import logging
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy import reaper
from deploy.haproxy import LOOPBACK
from deploy.serve_settings import serve_environment
from serving.admission import MOST_AT_WORK

_OBJECT_STORE_BYTES = 150 * 2**20
_PORT_PATIENCE = 3.0


class RayNotStarted(RuntimeError):
    """Ray's own processes did not come up."""


class PortInUse(RuntimeError):
    """Something else listens on the port that the application needs."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running local Ray, to be given back to `stop_ray`."""

    url: str
    proxy_host: str
    port: int
    run_directory: Path
    log_directory: Path | None
    reaper: "subprocess.Popen[bytes]"


def start_ray(
    *,
    host: str = LOOPBACK,
    port: int = 8000,
    num_cpus: int = 16,
    object_store_memory: int = _OBJECT_STORE_BYTES,
    log_directory: Path | None = None,
    use_haproxy: bool | None = None,
    most_at_work: int = MOST_AT_WORK,
    worker_environment: Mapping[str, str] | None = None,
) -> Cluster:
    """Start Ray, set up for Serve; `start_serve` comes next. Only from the main thread.

    Args:
        host: where the application is to be reached; only HAProxy keeps everything else on loopback if this is not.
        num_cpus: what Ray believes to have, so that fractions of it always fit.
        log_directory: where Ray's logs go when it ends; while it runs, `logs` beside it leads to them. None drops them.
        use_haproxy: False takes Ray's own proxy; None takes HAProxy where there is one.
        most_at_work: requests for each replica that HAProxy lets through at a time.
        worker_environment: what the workers see in addition to this process's environment.
    """
    if threading.current_thread() is not threading.main_thread():
        # The kernel ties Ray's processes to the thread that starts them, not to the process.
        raise RuntimeError("start_ray must be called from the main thread: Ray would end together with any other")
    _refuse_ray_imported_early()
    ensure_port_free(host, port)
    directory = _run_directory()
    environment = serve_environment(directory, public_host=host, use_haproxy=use_haproxy, most_at_work=most_at_work)
    proxy_host = LOOPBACK if "RAY_SERVE_ENABLE_HA_PROXY" in environment else host
    url = f"http://{_reachable(host)}:{port}"
    cluster = Cluster(url, proxy_host, port, directory, log_directory, _reaper(directory, log_directory))
    try:
        os.environ.update(environment)
        _init_ray(cluster, num_cpus, object_store_memory, worker_environment or {})
        _show_logs(cluster)
    except BaseException:
        stop_ray(cluster)
        raise
    return cluster


def start_serve(cluster: Cluster) -> None:
    """Start Serve's controller and proxies; applications are deployed after it."""
    from ray import serve  # noqa: PLC0415 - reads the environment that `start_ray` sets when it is first imported

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    # Nodes that join have no proxy of their own: there is one address.
    serve.start(proxy_location="HeadOnly", http_options={"host": cluster.proxy_host, "port": cluster.port})


def stop_ray(cluster: Cluster) -> None:
    """End Ray and everything it started; requests in flight are cut off. A second call does nothing."""
    import ray  # noqa: PLC0415 - reads the environment set above when it is first imported

    with contextlib.suppress(Exception):
        ray.shutdown()
    _hide_logs(cluster)
    logs = str(cluster.log_directory.resolve()) if cluster.log_directory is not None else ""
    left = reaper.sweep(str(cluster.run_directory), logs)
    cluster.reaper.kill()
    cluster.reaper.wait()
    if left:
        raise RuntimeError(f"these processes of Ray would not end: {', '.join(map(str, left))}")


def _show_logs(cluster: Cluster) -> None:
    """Make the logs of what runs easy to find."""
    _hide_logs(cluster)
    if cluster.log_directory is not None:
        with contextlib.suppress(OSError):  # something of that name that is not ours
            cluster.log_directory.with_name("logs").symlink_to(cluster.run_directory / "ray" / "session_latest" / "logs")


def _hide_logs(cluster: Cluster) -> None:
    if cluster.log_directory is not None and (link := cluster.log_directory.with_name("logs")).is_symlink():
        link.unlink()


def ensure_port_free(host: str, port: int, patience: float = _PORT_PATIENCE) -> None:
    """Fail, naming the port, when it cannot be listened on; a killed predecessor lets go of it within moments."""
    deadline = time.monotonic() + patience
    while (obstacle := _obstacle(host, port)) is not None:
        if obstacle.errno != errno.EADDRINUSE or time.monotonic() > deadline:
            raise PortInUse(
                f"port {port} on {host} cannot be used ({obstacle.strerror}): stop what listens there, or name another"
            )
        time.sleep(0.1)


def _obstacle(host: str, port: int) -> OSError | None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def _refuse_ray_imported_early() -> None:
    """Ray decides at its first import whether its ports are for this machine only."""
    constants = sys.modules.get("ray._private.ray_constants")
    if constants is not None and constants.ENABLE_RAY_CLUSTER:
        raise RuntimeError(
            "ray was imported before start_ray and would open its ports to the network: call start_ray first, or set "
            "deploy.serve_settings.LOCAL_ENVIRONMENT in os.environ before ray is imported"
        )


def _reachable(host: str) -> str:
    return LOOPBACK if host in ("", "0.0.0.0", "::") else host


def _run_directory() -> Path:
    """Private, and with a short path: the sockets of Ray and HAProxy are made in it."""
    base = "/tmp" if os.access("/tmp", os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="tidemill-", dir=base))
    with open(os.open(directory / "token", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as token:
        token.write(secrets.token_hex(32))
    return directory


def _reaper(directory: Path, log_directory: Path | None) -> "subprocess.Popen[bytes]":
    logs = str(log_directory.resolve()) if log_directory is not None else ""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", os.path.abspath(reaper.__file__), str(os.getpid()), str(directory), logs],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _init_ray(cluster: Cluster, num_cpus: int, object_store_memory: int, environment: Mapping[str, str]) -> None:
    import ray  # noqa: PLC0415 - reads the environment set above when it is first imported

    workers: dict[str, Any] = {
        "env_vars": {"PYTHONPATH": os.pathsep.join(_python_path()), **environment},
        "worker_process_setup_hook": "deploy.loopback.listen_locally",
    }
    try:
        with _without_helpers():
            ray.init(
                address="local",
                include_dashboard=False,
                num_cpus=num_cpus,
                object_store_memory=object_store_memory,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env=workers,
                _temp_dir=str(cluster.run_directory / "ray"),
                _system_config={"prestart_worker_first_driver": False},
            )
    except Exception as error:  # Ray raises this very class where it did not start in time
        text = str(error).partition("\n")[0][:300]
        raise RayNotStarted(f"Ray did not start: {text} Try again when this machine is less busy.") from error


@contextlib.contextmanager
def _without_helpers() -> Generator[None]:
    """Start Ray without processes that nothing here uses: together they are a quarter of its start.

    They are the autoscaler's monitor, the part of the dashboard that stays when the dashboard is off, and the forwarder
    of workers' output. Ray has no setting for that; a Ray without these methods starts all it has.
    """
    from ray._private.node import Node  # noqa: PLC0415  # pyright: ignore[reportPrivateUsage]

    unused = [name for name in ("start_monitor", "start_api_server", "start_log_monitor") if hasattr(Node, name)]
    kept = {name: getattr(Node, name) for name in unused}
    for name in unused:
        setattr(Node, name, _start_nothing)
    try:
        yield
    finally:
        for name, method in kept.items():
            setattr(Node, name, method)


def _start_nothing(*_: object, **__: object) -> None:
    pass


def _python_path() -> list[str]:
    """Where this process imports from beyond its installation, and the working directory, where users' modules lie."""
    installed = (sys.prefix, sys.base_prefix)
    own = [entry for entry in sys.path if entry and not entry.startswith(installed)]
    return list(dict.fromkeys([os.getcwd(), *own]))
