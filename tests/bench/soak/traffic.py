"""The mixed traffic of a soak: each kind in a thread of its own, with what may and may not be answered."""

import json
import random
import socket
import struct
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from threading import Event, Lock, Thread
from typing import Any

import httpx
import numpy as np

from deploy.client import ApiError, Client
from deploy.testing import TestPlatform

MODELS = ("vector", "shop")
COUNTRIES = ("VN", "DE", "größe", "")
_LATE_S = 20.0
_KNOWN_S = 10.0
"""A new key is known everywhere within two seconds; on a busy machine it may take longer."""


class Traffic:
    """Call `start`; `rest` and `resume` in between; `stop` at the end.

    `sent` counts requests by kind; `failures` is what was to be answered and was not, or was to be refused and was not so.
    """

    def __init__(self, platform: TestPlatform) -> None:
        self.sent: Counter[str] = Counter()
        self.failures: list[str] = []
        self._platform = platform
        self._ids: deque[tuple[str, str, float]] = deque(maxlen=5000)
        self._going, self._ended, self._lock = Event(), Event(), Lock()
        self._idle: list[Event] = []
        kinds: Iterable[tuple[Callable[[Client, httpx.Client, random.Random], None], float]] = (
            (self._predict, 0.02), (self._infer, 0.03), (self._rank, 0.05), (self._feedback, 0.05), (self._operate, 2.0),
            (self._keys, 1.0), (self._refused, 0.1), (self._rude, 0.5),
        )  # fmt: skip
        self._threads = [Thread(target=self._repeat, args=kind, daemon=True) for kind in kinds]

    def start(self) -> None:
        self._going.set()
        for thread in self._threads:
            thread.start()

    def rest(self) -> None:
        """Return when nothing is sent any more."""
        self._going.clear()
        for idle in self._idle:
            idle.wait()

    def resume(self) -> None:
        self._going.set()

    def stop(self) -> None:
        self._ended.set()
        self._going.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, send: Callable[[Client, httpx.Client, random.Random], None], pause_s: float) -> None:
        name = send.__name__.strip("_")
        draw = random.Random(name)
        idle = Event()
        self._idle.append(idle)
        while not self._ended.is_set():
            idle.set()
            self._going.wait()
            idle.clear()
            with self._platform.client() as client, httpx.Client(base_url=self._platform.url, timeout=30.0) as http:
                while self._going.is_set() and not self._ended.is_set():
                    try:
                        send(client, http, draw)
                    except (ApiError, httpx.HTTPError, OSError, AssertionError) as error:
                        self._failed(f"{name}: {type(error).__name__} {error}")
                    with self._lock:
                        self.sent[name] += 1
                    time.sleep(pause_s * draw.uniform(0.5, 1.5))

    def _failed(self, what: str) -> None:
        with self._lock:
            self.failures.append(what[:300])

    def _remember(self, model: str, ids: Iterable[str]) -> None:
        self._ids.extend((model, id_, time.monotonic()) for id_ in ids)

    def _predict(self, client: Client, _: httpx.Client, draw: random.Random) -> None:
        model = draw.choice(MODELS)
        made = client.predict(model, [_instance(model, draw) for _ in range(draw.choice((1, 1, 1, 8, 200)))])
        self._remember(model, [one["id"] for one in made])

    def _infer(self, _: Client, http: httpx.Client, draw: random.Random) -> None:
        rows = draw.choice((1, 4, 64))
        values = np.array([[draw.gauss(0, 1) for _ in range(32)] for _ in range(rows)], dtype=np.float32)
        tensor: dict[str, Any] = {"name": "x", "shape": [rows, 32], "datatype": "FP32"}
        if draw.random() < 0.5:
            head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": values.nbytes}}]}).encode()
            headers = {"inference-header-content-length": str(len(head))}
            reply = http.post("/v2/models/vector/infer", content=head + values.tobytes(), headers=headers)
        else:
            reply = http.post("/v2/models/vector/infer", json={"inputs": [tensor | {"data": values.tolist()}]})
        _expect(reply, 200)

    def _rank(self, _: Client, http: httpx.Client, draw: random.Random) -> None:
        candidates = [{"item": f"i{number}", "features": _features("shop", draw)} for number in range(12)]
        body: dict[str, Any] = {"candidates": candidates, "unit": f"u{draw.randrange(500)}", "k": 5}
        page = _expect(http.post("/models/shop/rank", json=body), 200)
        while page["cursor"]:
            page = _expect(http.post("/models/shop/rank", json=body | {"cursor": page["cursor"]}), 200)

    def _feedback(self, client: Client, _: httpx.Client, draw: random.Random) -> None:
        """Right, right again, corrected, late, and for predictions that never were."""
        if not self._ids:
            return
        model, id_, made_at = self._ids[0] if draw.random() < 0.3 else self._ids.popleft()
        if draw.random() < 0.1 and time.monotonic() - made_at < _LATE_S:
            self._ids.append((model, id_, made_at))
            return
        label = draw.randrange(2)
        events = [{"id": id_, "label": label}] * draw.choice((1, 1, 2))
        if draw.random() < 0.1:
            events += [{"id": id_, "label": 1 - label}, {"id": f"{model}:never-{draw.randrange(10**9)}", "label": 1}]
        client.feedback(events)

    def _operate(self, client: Client, http: httpx.Client, draw: random.Random) -> None:
        """Policies, experiments begun and ended, and all that is read."""
        model = draw.choice(MODELS)
        try:
            self._change(client, model, draw)
        except ApiError as error:
            # The platform decides too, and may have done so since we looked: another epoch, a version sent back.
            if error.status != 409 and "which is rejected" not in str(error):
                raise
        for _ in (client.status(), client.audit(model), client.experiments(model)):
            pass
        assert http.get("/metrics").status_code == 200

    def _change(self, client: Client, model: str, draw: random.Random) -> None:
        newest = client.versions(model, 2)
        policy = client.policy(model)
        if not policy["policy"].get("experiments") and len(newest) == 2:
            share = draw.choice((0.1, 0.5))
            trial = {"name": f"t{draw.randrange(10**6)}", "kind": draw.choice(("ab", "canary", "shadow"))}
            shares = {"old": share} | ({"main": 1 - share} if trial["kind"] == "ab" else {})
            client.start_experiment(model, trial | {"shares": shares}, [{"name": "old", "version": newest[1]["number"]}])
        else:
            client.set_policy(model, {"variants": [{"name": "main"}], "default": "main"}, policy["epoch"])

    def _keys(self, client: Client, http: httpx.Client, draw: random.Random) -> None:
        made = client.create_key({"name": "soak", "role": "predict", "limits": {"requests_s": 1000}})
        try:
            headers = {"authorization": f"Bearer {made['key']}"}
            body = {"instances": [_instance("vector", draw)]}
            until = time.monotonic() + _KNOWN_S
            while (reply := http.post("/models/vector/predict", json=body, headers=headers)).status_code == 401:
                assert time.monotonic() < until, "a new key is not known"
                time.sleep(0.1)
            _expect(reply, 200)
        finally:
            client.drop_key(made["id"])

    def _refused(self, _: Client, http: httpx.Client, draw: random.Random) -> None:
        """Broken bodies: each must be answered as what it is."""
        path, body = draw.choice(BROKEN)
        reply = http.post(path, content=body, headers={"content-type": "application/json"})
        if not 400 <= reply.status_code < 500 or "error" not in reply.json():
            self._failed(f"refused: {path} {body[:60]!r} was answered {reply.status_code}")

    def _rude(self, _: Client, __: httpx.Client, draw: random.Random) -> None:
        """Clients that go away in the middle, or never spoke HTTP."""
        with socket.create_connection(("127.0.0.1", self._platform.port), timeout=10.0) as line:
            match draw.randrange(4):
                case 0:
                    line.sendall(draw.randbytes(200))
                case 1:
                    line.sendall(b"POST /models/vector/predict HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n{")
                    time.sleep(draw.uniform(0.0, 2.0))
                case 2:
                    line.sendall(_SENT)
                case _:
                    line.sendall(_SENT * 3)
                    line.recv(10)
            if draw.random() < 0.5:  # a reset in place of an orderly end
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _features(model: str, draw: random.Random) -> dict[str, Any]:
    if model == "vector":
        return {"x": [round(draw.gauss(0, 1), 3) for _ in range(32)]}
    return {"country": draw.choice(COUNTRIES), "price": draw.uniform(0, 100), "age": draw.choice((None, 3.0))}


def _instance(model: str, draw: random.Random) -> dict[str, Any]:
    return {"features": _features(model, draw), "unit": f"u{draw.randrange(500)}"}


def _expect(reply: httpx.Response, status: int) -> Any:
    assert reply.status_code == status, f"{reply.request.url.path}: {reply.status_code} {reply.text[:150]}"
    return reply.json()


def _x(*values: object) -> bytes:
    return json.dumps({"instances": [{"features": {"x": values}}]}).encode()


BROKEN: tuple[tuple[str, bytes], ...] = (
    ("/models/vector/predict", b'{"instances": [{"features"'),
    ("/models/vector/predict", b"\xff\xfe\x00garbage"),
    ("/models/vector/predict", b"[" * 10_000),
    ("/models/vector/predict", _x(*([1e308] * 31), 10**400)),
    ("/models/vector/predict", _x(*["1"] * 32)),
    ("/models/vector/predict", _x(1.0)),
    ("/models/vector/predict", b'{"instances": [{"features": {"x": [' + b"9" * 5000 + b"]}}]}"),
    ("/models/vector/predict", b'{"instances": []}'),
    ("/models/none/predict", b'{"instances": []}'),
    ("/models/shop/predict", b'{"instances": [{"features": {"country": 3, "price": "x"}}]}'),
    ("/models/shop/rank", b'{"candidates": [], "k": -1}'),
    ("/models/shop/rank", b'{"candidates": [{"item": "a"}], "cursor": "not one"}'),
    ("/v2/models/vector/infer", b'{"inputs": [{"name": "x", "shape": [99999999999, 32], "datatype": "FP32", "data": []}]}'),
    ("/v2/models/vector/infer", b'{"inputs": 3}'),
    ("/feedback", b'{"events": [{"id": "vector:a", "label": {"a": 1}}]}'),
    ("/feedback", b'{"events": [{"id": 7}]}'),
    ("/feedback", b"null"),
)
_BODY = _x(*[0.5] * 32)
_SENT = b"POST /models/vector/predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(_BODY) + _BODY
