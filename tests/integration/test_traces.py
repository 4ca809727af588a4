"""Traces as a collector receives them: one tree per prediction, continued from the caller's; and nothing breaks without one."""

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from deploy.serve_settings import free_ports
from deploy.testing import platform_in, until
from serving.settings import ServingSettings
from serving.testing import GOOD, predict, serving
from store import tracing
from store.embedded import EmbeddedRedis
from store.logs import JsonLines
from store.redis_store import RedisStore
from store.telemetry import Telemetry
from tests.integration.conftest import SPEC
from trainer.loop import Trainer

pytestmark = pytest.mark.anyio
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = {"traceparent": f"00-{TRACE}-{CALLER}-01"}


@dataclass(frozen=True)
class Span:
    name: str
    trace: str
    id: str
    parent: str
    about: dict[str, Any]
    failed: bool
    process: str


@dataclass
class Collector:
    """Takes OTLP over HTTP. `refuses` answers 503 instead; `hangs` does not answer."""

    url: str = ""
    spans: list[Span] = field(default_factory=list[Span])
    refuses: bool = False
    asked: int = 0
    hangs: threading.Event = field(default_factory=threading.Event)

    def named(self, name: str, trace: str = "") -> list[Span]:
        return [span for span in self.spans if span.name == name and (not trace or span.trace == trace)]

    def one(self, name: str, trace: str = "") -> Span:
        [span] = self.named(name, trace)
        return span


@contextmanager
def collecting() -> Generator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.asked += 1
            collector.hangs.wait()
            if collector.refuses or self.path != "/v1/traces":
                self.send_error(503)
                return
            collector.spans += _spans(body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    collector.hangs.set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield collector
    finally:
        collector.hangs.set()
        server.shutdown()
        server.server_close()


def _spans(body: bytes) -> list[Span]:
    found: list[Span] = []
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        process = {one.key: one.value.string_value for one in resource.resource.attributes}["service.instance.id"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                about = {one.key: getattr(one.value, one.value.WhichOneof("value") or "") for one in span.attributes}
                ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
                assert span.end_time_unix_nano >= span.start_time_unix_nano > 0
                found.append(Span(span.name, *ids, about, span.status.code == span.status.STATUS_CODE_ERROR, process))
    return found


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    with collecting() as one:
        yield one


async def _settings(redis_url: str, prefix: str, collector: str) -> ServingSettings:
    store = RedisStore(redis_url, prefix)
    await Trainer(SPEC, store).start()
    await store.close()
    return ServingSettings(redis_url=redis_url, prefix=prefix, token="secret", telemetry=Telemetry(traces=collector))


async def _ask(client: httpx.AsyncClient, path: str, content: Any, **headers: str) -> httpx.Response:
    return await client.post(path, json=content, headers=headers)


async def test_the_spans_of_a_request_form_one_tree_under_the_callers_span(
    redis_url: str, prefix: str, collector: Collector
) -> None:
    async with serving(await _settings(redis_url, prefix, collector.url)) as client:
        instances = {"instances": [{"features": GOOD}, {"features": GOOD}]}
        made = (await _ask(client, "/models/m/predict", instances, **PARENT)).json()["predictions"]
        await predict(client)
        label = {"events": [{"id": made[0]["id"], "label": 1}]}
        assert (await _ask(client, "/feedback", label)).status_code == 202
        candidates = {"candidates": [{"item": "a", "features": GOOD}, {"item": "b", "features": GOOD}]}
        ranked = (await _ask(client, "/models/m/rank", candidates)).json()
        refused = await _ask(client, "/models/m/predict", {"instances": [{"features": GOOD | {"x": "no"}}]})
        assert refused.status_code == 422
    request = collector.one("POST /models/{model}/predict", TRACE)
    assert request.parent == CALLER
    assert request.about["tidemill.prediction_id"] == made[0]["id"]
    assert [one.string_value for one in request.about["tidemill.prediction_ids"].values] == [one["id"] for one in made]
    assert request.about["http.response.status_code"] == 200
    assert request.about["tidemill.model"] == "m"
    for name in ("read", "arm", "log"):
        span = collector.one(name, TRACE)
        assert (span.parent, span.failed, span.process) == (request.id, False, request.process)
    about = collector.one("arm", TRACE).about
    wanted = {"model": "m", "variant": "main", "version": 1, "rows": 2}
    assert {name: about[f"tidemill.{name}"] for name in wanted} == wanted
    second = next(span for span in collector.named("POST /models/{model}/predict") if span.trace != TRACE)
    assert second.parent == ""
    assert {span.name for span in collector.spans if span.trace == second.trace} == {request.name, "read", "arm", "log"}
    feedback = collector.one("POST /feedback")
    assert feedback.about["tidemill.prediction_id"] == made[0]["id"]
    assert collector.one("log", feedback.trace).parent == feedback.id
    ranking = collector.one("POST /models/{model}/rank")
    assert ranking.about["tidemill.prediction_id"] == ranked["id"]
    assert {span.parent for span in collector.spans if span.trace == ranking.trace} == {"", ranking.id}
    bad = next(span for span in collector.spans if span.about.get("http.response.status_code") == 422)
    assert (bad.failed, bad.about["error.type"]) == (False, "Invalid")
    assert collector.named("swap")


async def test_what_fails_is_a_failed_span_and_a_line_in_the_log_with_its_trace(
    tmp_path: Path, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    redis = EmbeddedRedis(tmp_path / "redis")
    await asyncio.to_thread(redis.start)
    try:
        async with serving(await _settings(redis.url, "away", collector.url)) as client:
            await predict(client)
            await asyncio.to_thread(redis.stop)
            caplog.handler.setFormatter(JsonLines({"replica": "r"}))
            caplog.clear()
            assert (await _ask(client, "/models/m/predict", {"instances": [{"features": GOOD}]}, **PARENT)).status_code == 503
            page = (await client.get("/metrics")).text
    finally:
        await asyncio.to_thread(redis.stop)
    request = collector.one("POST /models/{model}/predict", TRACE)
    assert (request.failed, request.about["error.type"]) == (True, "LogUnavailable")
    lines = [json.loads(line) for line in caplog.text.splitlines() if "answered 503" in line]
    assert [(line["trace_id"], line["model"], line["error"], line["level"]) for line in lines] == [
        (TRACE, "m", "LogUnavailable", "WARNING")
    ]
    assert lines[0].get("prediction_id") == request.about.get("tidemill.prediction_id")
    counted = [line for line in page.splitlines() if line.startswith("tidemill_errors_total{")]
    assert any('kind="LogUnavailable"' in line and line.endswith(" 1.0") for line in counted)


@pytest.mark.parametrize("how", ["gone", "refuses", "hangs"])
async def test_a_collector_that_is_away_harms_no_prediction(
    redis_url: str, prefix: str, collector: Collector, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    [port] = free_ports(1)
    collector.refuses = how == "refuses"
    if how == "hangs":
        collector.hangs.clear()
    url = f"http://127.0.0.1:{port}" if how == "gone" else collector.url
    async with serving(await _settings(redis_url, prefix, url)) as client:
        # While the first batch is on its way in vain, more are made than the queue holds.
        async with asyncio.timeout(60):
            while not tracing.dropped():
                await asyncio.gather(*(predict(client) for _ in range(20)))
        dropped = tracing.dropped()
        await asyncio.gather(*(predict(client) for _ in range(200)))
        async with asyncio.timeout(60):
            while tracing.dropped() < dropped + 800:  # noqa: ASYNC110 - counted by a thread
                await asyncio.sleep(0.01)
        page = (await client.get("/metrics")).text
        counted = next(line for line in page.splitlines() if line.startswith("tidemill_spans_dropped_total{"))
        assert float(counted.split()[-1]) >= dropped + 800
        collector.hangs.set()
    said = [record for record in caplog.records if "takes no traces" in record.message]
    assert len(said) == 1
    assert not collector.spans or how == "hangs"


async def test_a_trace_goes_on_in_another_process(collector: Collector) -> None:
    """What a hop to a deployment of its own does: the carrier travels with the request."""
    elsewhere = (
        "import json, sys; from store import tracing; tracing.start(sys.argv[1], 'elsewhere:1')\n"
        "with tracing.continued(json.loads(sys.argv[2])), tracing.span('model'): pass\n"
        "tracing.stop()"
    )
    tracing.start(collector.url, "here:1")
    try:
        assert tracing.carrier() == {}
        with tracing.continued(PARENT), tracing.span("arm"):
            carried = tracing.carrier()
            assert tracing.trace_id() == TRACE
        assert tracing.trace_id() == ""
        command = [sys.executable, "-c", elsewhere, collector.url, json.dumps(carried)]
        done = await asyncio.to_thread(subprocess.run, command, check=False, timeout=60)
        assert done.returncode == 0
    finally:
        tracing.stop()
    arm, model = collector.one("arm"), collector.one("model")
    assert (arm.trace, arm.parent) == (TRACE, CALLER)
    assert (model.trace, model.parent) == (TRACE, arm.id)
    assert (arm.process, model.process) == ("here:1", "elsewhere:1")


@pytest.mark.ray
def test_a_platform_sends_what_its_replicas_and_trainers_do_and_its_log_is_found(tmp_path: Path, collector: Collector) -> None:
    (tmp_path / "my_model.py").write_text(_MODEL)
    with platform_in(tmp_path) as platform:
        up = ("up", "--detach", "--spec=my_model:spec", f"--traces={collector.url}", "--log-format=json")
        platform.command(*up)
        with httpx.Client(base_url=platform.url, headers=PARENT) as client:
            asked = {"instances": [{"features": {"x": 1.0}}]}
            [made] = client.post("/models/m/predict", json=asked).json()["predictions"]
            assert client.post("/feedback", json={"events": [{"id": made["id"], "label": 1}]}).status_code == 202
        until(lambda: collector.named("POST /feedback") and collector.named("log", TRACE)[1:], "the traces have arrived")
        request = collector.one("POST /models/{model}/predict")
        assert (request.trace, request.parent) == (TRACE, CALLER)
        assert request.about["tidemill.prediction_id"] == made["id"]
        arm = collector.one("arm")
        assert (arm.parent, arm.about["tidemill.version"]) == (request.id, 1)
        assert request.process.startswith("replica:")
        until(lambda: collector.named("publish") and collector.named("swap"), "the first version's spans have arrived")
        assert {span.process for span in collector.named("publish")} == {"trainer:m"}
        [replica] = platform.pids("replicas")
        assert list((platform.home.path / "logs").glob(f"worker-*-{replica}.err"))
        stages = [json.loads(line) for line in (platform.home.path / "up.log").read_text().splitlines()]
        assert {"starting Ray", "ready"} <= {line["message"] for line in stages}
        platform.command("down")
        assert not (platform.home.path / "logs").is_symlink()
        assert list((platform.home.path / "ray-logs").glob(f"worker-*-{replica}.err"))


_MODEL = """
from pydantic import BaseModel
from store.spec import ModelSpec, Schedule


class Features(BaseModel):
    x: float


spec = ModelSpec(name="m", features=Features, schedule=Schedule(seconds=None))
"""
