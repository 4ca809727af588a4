"""Ray Serve's settings on one machine, and the wrapper that Serve starts HAProxy through.

Serve's template for HAProxy binds its metrics and statistics to every interface and lets every user administer it. The
wrapper, this very file run as a script, hands HAProxy a corrected copy of each configuration that Serve writes, under
another name: Serve may be writing the next one meanwhile. HAProxy keeps the wrapper's process id, which Serve checks,
and dies with the actor that started it, which it would otherwise outlive.
"""

import contextlib
import os
import sys
from collections.abc import Sequence
from itertools import takewhile
from typing import NoReturn

LOOPBACK = "127.0.0.1"
BURST, LEAST, STAYS = 8, 3, 2
"""As in `serving/admission.py`; the last is one over that share."""

FIRST = 3
"""Of replicas that share processors, one gets what comes while it has fewer requests than this at work, and the next when that
one pauses. Taking turns was measured to cost a fifth, since neither's code and data stay in the caches."""

_APPLICATION = "http_frontend"
_PUBLIC_SECTIONS = (_APPLICATION, "grpc_frontend")
_REFUSED = '\'{"error":"as many requests are at work as can be answered in time; send fewer at a time, or wait a second"}\''


def corrected(configuration: str, public_host: str, most: int, processors: int) -> str:
    """The configuration with the application's frontends on `public_host` and every other port on loopback, and with
    `most` requests at a time for each replica; those that share `processors` share that, too."""
    own = max(1, processors // 2)  # a busy replica keeps another processor busy: HAProxy, Redis and those who ask
    section = ""
    lines: list[str] = []
    given = configuration.splitlines()
    for number, line in enumerate(given):
        words = line.split()
        if words[:1] in (["frontend"], ["listen"], ["backend"]):
            section = words[-1]
            replicas = _replicas(given[number + 1 :]) if words[0] == "backend" else []
            lines += [line, *(_refusal(most * min(len(replicas), own)) if replicas else ())]
            if len(replicas) > own:
                lines += [f"    use-server {name} if {{ srv_conn({name}) lt {FIRST} }}" for name in replicas]
            if section == _APPLICATION:
                # Here, and not where places are counted: clients that dawdle take none.
                lines.append("    http-request wait-for-body time 30s if METH_POST")
            continue
        # A line per request to a syslog daemon that nobody asked for.
        if words[:1] != ["log"] or "local0" not in words:
            lines.append(_corrected_line(line, words, public_host if section in _PUBLIC_SECTIONS else LOOPBACK))
    return "\n".join(lines) + "\n"


def _replicas(following: Sequence[str]) -> list[str]:
    """The servers of a backend by name, without those that only stand in, from the lines that follow the backend's own."""
    own = takewhile(lambda line: line.split()[:1] not in (["backend"], ["listen"], ["frontend"]), following)
    return [words[1] for words in map(str.split, own) if words[:1] == ["server"] and "backup" not in words]


def _refusal(most: int) -> list[str]:
    """Refuse what is over the bound, here, where it costs next to nothing; operators always come through.

    A flood of refusals by the replica would leave it no time for answers. Small bodies are here by now. Requests that gather
    in a moment's pause are let in, up to BURST times the bound; those that stay too many, as the counts of the last second
    show, are not.
    """
    asks = "METH_POST !{ path_beg /admin/ }"
    over, fits = f"{asks} {{ be_conn gt {most} }}", f"{asks} {{ be_conn le {most} }}"
    many, stays = f"{{ sc0_gpc0_rate gt {LEAST * most} }}", "{ sc0_gpc0_rate,sub(txn.fitted) gt 0 }"
    answer = f"status 503 content-type application/json hdr retry-after 1 string {_REFUSED}"
    return [
        "    stick-table type integer size 1 expire 10s store gpc0,gpc0_rate(1s),gpc1,gpc1_rate(1s)",
        "    http-request track-sc0 int(1)",
        f"    http-request sc-inc-gpc1(0) if {fits}",
        f"    http-request sc-inc-gpc0(0) if {over}",
        f"    http-request set-var(txn.fitted) sc0_gpc1_rate,div({STAYS}) if {over}",
        f"    http-request return {answer} if {over} {many} {stays}",
        f"    http-request return {answer} if {over} {{ sc0_gpc1_rate eq 0 }} {{ sc0_gpc0_rate gt {most} }}",
        f"    http-request return {answer} if {over} {{ be_conn gt {BURST * most} }}",
    ]


def _corrected_line(line: str, words: Sequence[str], host: str) -> str:
    if words[:1] == ["bind"]:
        # What stands before the port is the template's choice: *, nothing, or the host of Serve's options.
        port = words[1].rpartition(":")[2]
        return f"    bind {' '.join([f'{host}:{port}', *words[2:]])}"
    if words[:2] == ["stats", "socket"]:
        return line.replace("mode 666", "mode 600")
    return line


def _arguments(given: Sequence[str], public_host: str, most: int) -> list[str]:
    """HAProxy's arguments with the corrected copy in place of Serve's file; those of `-v` and the like stay."""
    if "-f" not in given:
        return list(given)
    position = given.index("-f") + 1
    original = given[position]
    copy = f"{original}.{os.getpid()}"
    # The processes named in the arguments, which this one is to replace, have long read theirs.
    for predecessor in given:
        with contextlib.suppress(FileNotFoundError):
            if predecessor.isdigit():
                os.unlink(f"{original}.{predecessor}")
    with open(original, encoding="utf-8") as source:
        text = corrected(source.read(), public_host, most, os.cpu_count() or 1)
    with open(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as target:
        target.write(text)
    # Serve knows its HAProxy by the original's name on the command line: as the name of this peer it is harmless.
    return [*given[:position], copy, *given[position + 1 :], "-L", original]


def _main(arguments: Sequence[str]) -> NoReturn:
    binary, public_host, most, *given = arguments
    os.execv(binary, [binary, *_arguments(given, public_host, int(most))])


if __name__ == "__main__":
    _main(sys.argv[1:])
