"""Models from elsewhere over HTTP: imported, asked, compared, labelled; what is hostile leaves no trace."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import BaseModel
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from serving.foreign.examination import examine
from serving.foreign.question import Examined, Question
from serving.foreign.sandbox import examine_apart
from serving.foreign.testing import logistic
from serving.settings import ServingSettings
from serving.testing import TOKEN, refused, serving
from store.names import learner_consumer, outcome_stream
from store.publishing import publish_answered
from store.records import Outcomes, unpack_outcomes
from store.redis_store import RedisStore
from store.spec import ModelSpec, Schedule
from trainer.joiner import Joiner
from trainer.loop import Trainer

pytestmark = pytest.mark.anyio

MAX_IMPORT = 1_000_000
_DRAW = np.random.default_rng(0)
X = _DRAW.normal(size=(200, 3)).astype(np.float32)
Y = (X[:, 0] - X[:, 1] + _DRAW.normal(size=200) > 0).astype(int)


class Features(BaseModel):
    a: float
    b: float
    c: float
    country: str = "VN"


SPEC = ModelSpec(name="learned", features=Features, schedule=Schedule(seconds=None))


@pytest.fixture(scope="module")
async def platform(
    redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[RedisStore, httpx.AsyncClient]]:
    prefix = f"test-{tmp_path_factory.mktemp('imports').parent.name}-imports"
    store = RedisStore(redis_url, prefix)
    await Trainer(SPEC, store).start()
    settings = ServingSettings(redis_url=redis_url, prefix=prefix, token="secret", max_import_bytes=MAX_IMPORT)
    async with serving(settings) as client:
        yield store, client
    await store.close()


@pytest.fixture
def client(platform: tuple[RedisStore, httpx.AsyncClient]) -> httpx.AsyncClient:
    return platform[1]


@pytest.fixture
def store(platform: tuple[RedisStore, httpx.AsyncClient]) -> RedisStore:
    return platform[0]


async def _import(client: httpx.AsyncClient, model: str, content: bytes, **how: str) -> httpx.Response:
    headers = TOKEN | {"content-type": "application/octet-stream"}
    return await client.post(f"/admin/models/{model}/versions", headers=headers, content=content, params=how)


async def _ask(client: httpx.AsyncClient, model: str, features: list[dict[str, Any]], **more: str) -> list[dict[str, Any]]:
    instances = [{"features": one, "id": f"{model}-{number}"} for number, one in enumerate(features)]
    reply = await client.post(f"/models/{model}/predict", json={"instances": instances}, headers=more)
    assert reply.status_code == 200, reply.text
    return reply.json()["predictions"]


def _converted(model: Any) -> bytes:
    from skl2onnx import to_onnx  # noqa: PLC0415 - takes a second, and only some tests need it

    converted: Any = to_onnx(model, X[:1], options={"zipmap": False})
    return converted.SerializeToString()


LIBRARY = {
    "logistic": LogisticRegression(),
    "boosting": GradientBoostingClassifier(n_estimators=20),
    "pipeline": make_pipeline(StandardScaler(), LogisticRegression()),
}


@pytest.mark.parametrize("name", list(LIBRARY))
async def test_an_imported_model_answers_as_its_library_does(client: httpx.AsyncClient, name: str) -> None:
    library = LIBRARY[name].fit(X, Y)
    made = await _import(client, name, _converted(library), why="it was there")
    assert made.status_code == 201, made.text
    about = made.json()
    assert (about["version"], about["line"], about["objective"], about["trainable"]) == (1, "imported", "binary", False)
    assert (about["new"], about["answers"]) == (True, ["main"])
    assert about["lineage"]["producer"] == "skl2onnx"
    assert len(about["lineage"]["sha256"]) == 64
    made_of = [{"X": row.tolist()} for row in X]
    answers = [one["output"]["probability"] for one in await _ask(client, name, made_of)]
    assert answers == pytest.approx(library.predict_proba(X)[:, 1].tolist(), abs=1e-5)
    audit = (await client.get(f"/admin/audit?model={name}", headers=TOKEN)).json()["audit"]
    assert (audit[0]["action"], audit[0]["why"]) == ("import", "it was there")


async def test_an_imported_xgboost_model_answers_as_xgboost_does(client: httpx.AsyncClient) -> None:
    xgboost = pytest.importorskip("xgboost")
    converters = pytest.importorskip("onnxmltools")
    from onnxmltools.convert.common.data_types import FloatTensorType  # noqa: PLC0415

    library = xgboost.XGBClassifier(n_estimators=20).fit(X, Y)
    content = converters.convert_xgboost(library, initial_types=[("X", FloatTensorType([None, 3]))]).SerializeToString()
    assert (await _import(client, "xgb", content)).status_code == 201
    answers = [one["output"]["probability"] for one in await _ask(client, "xgb", [{"X": row.tolist()} for row in X])]
    assert answers == pytest.approx(library.predict_proba(X)[:, 1].tolist(), abs=1e-5)


async def test_an_imported_version_is_tried_against_a_learned_one(client: httpx.AsyncClient, store: RedisStore) -> None:
    library = LogisticRegression().fit(X, Y)
    made = await _import(client, "learned", _converted(library))
    assert made.status_code == 201, made.text
    about = made.json()
    assert (about["new"], about["answers"], about["trainable"]) == (False, [], True)
    body = {
        "experiment": {"name": "trial", "kind": "ab", "shares": {"main": 0.5, "new": 0.5}},
        "variants": [{"name": "new", "version": about["version"]}],
    }
    started = await client.post("/admin/models/learned/experiments", headers=TOKEN, json=body)
    assert started.status_code == 200, started.text
    asked = [{"a": float(row[0]), "b": float(row[1]), "c": float(row[2])} for row in X]
    expected = library.predict_proba(X)[:, 1]
    answers = await _ask(client, "learned", asked)
    by_arm = {one["variant"] for one in answers}
    assert by_arm == {"main", "new"}
    for answer, probability in zip(answers, expected, strict=True):
        if answer["variant"] == "new":
            assert answer["output"]["probability"] == pytest.approx(probability, abs=1e-5)
    gone = await client.post("/admin/models/learned/experiments/trial/rollback", headers=TOKEN, json={"arm": "new"})
    assert gone.status_code == 200, gone.text
    assert (await store.version("learned", about["version"])).status == "rejected"
    assert {one["variant"] for one in await _ask(client, "learned", asked)} == {"main"}


async def test_the_next_import_answers_and_can_be_rolled_back(client: httpx.AsyncClient) -> None:
    assert (await _import(client, "twice", logistic())).json()["version"] == 1
    assert (await _import(client, "twice", logistic())).json()["answers"] == ["main"]
    assert (await _ask(client, "twice", [{"x": [1, 2, 3]}]))[0]["version"] == 2
    pinned = await client.post("/admin/models/twice/versions/1/promote", headers=TOKEN, json={"why": "the first was better"})
    assert pinned.status_code == 200, pinned.text
    assert (await _ask(client, "twice", [{"x": [1, 2, 3]}]))[0]["version"] == 1


async def test_labels_of_a_model_that_nobody_trains_become_outcomes(client: httpx.AsyncClient, store: RedisStore) -> None:
    await _import(client, "labelled", logistic())
    await _ask(client, "labelled", [{"x": [1, 2, 3]}] * 3)
    events = [{"model": "labelled", "id": f"labelled-{number}", "label": number % 2} for number in range(3)]
    assert (await client.post("/feedback", json={"events": events})).status_code == 202
    joiner = Joiner(store)
    await joiner.refresh()
    joined: dict[str, Any] = {}

    async def look() -> None:
        for entry in await store.read(outcome_stream("labelled"), "0-0", 100):
            record = unpack_outcomes(entry.payload)
            joined.update({one.id: one.label for one in record.outcomes} if isinstance(record, Outcomes) else {})

    async with asyncio.timeout(30):
        while len(joined) < 3:
            await look()
            await asyncio.sleep(0.01)
    await joiner.close()
    assert joined == {f"labelled-{number}": number % 2 for number in range(3)}
    assert not joiner.problems
    status = (await client.get("/admin/status", headers=TOKEN)).json()["models"]["labelled"]
    assert (status["trainable"], status["join"]["counts"]["labelled"]) == (False, 3)


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "retrain"), ("GET", "schedule"), ("PUT", "schedule")],
)  # fmt: skip
async def test_what_cannot_be_trained_says_so(client: httpx.AsyncClient, method: str, path: str) -> None:
    await _import(client, "twice", logistic())
    reply = await client.request(method, f"/admin/models/twice/{path}", headers=TOKEN, json={})
    refused(reply, 409, "model 'twice' was imported and has no trainer")


async def _everything(store: RedisStore) -> tuple[Any, ...]:
    models = await store.models()
    return (
        models,
        [(name, await store.versions(name), await store.snapshot(name)) for name in models],
        await store.last("audit"),
        await store.last("control"),
    )


def _with_input(name: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        model.graph.input[0].name = model.graph.node[0].input[0] = name

    return change


def _with_foreign_domain(model: Any) -> None:
    model.graph.node[0].domain = "evil"


@pytest.mark.parametrize(
    ("model", "content", "how", "status", "says"),
    [
        ("fresh", b"", {}, 422, "no ONNX file"),
        ("fresh", b"\x80\x04\x95rest", {}, 422, "a pickle runs code"),
        ("fresh", logistic()[:40], {}, 422, "only a part of one"),
        ("fresh", b"x" * (MAX_IMPORT + 1), {}, 413, "TIDEMILL_MAX_IMPORT_BYTES"),
        ("fresh", logistic(_with_foreign_domain), {}, 422, "operator domain 'evil'"),
        ("learned", logistic(), {"output": "q"}, 422, "no output 'q'"),
        ("learned", logistic(), {"line": "main"}, 422, "the trainer's"),
        ("learned", logistic(), {"line": "../x"}, 422, "line '../x'"),
        ("learned", logistic(), {"objective": "regression"}, 422, "on record with objective binary"),
        ("fresh", logistic(), {"objective": "magic"}, 422, "binary, multiclass, regression, ranking"),
        ("fresh", logistic(), {"shape": "round"}, 422, "no parameter 'shape'"),
        ("fresh", logistic(), {"why": "w" * 1001}, 422, "why"),
        ("%2e%2e", logistic(), {}, 422, "model name '..'"),
        ("Capital", logistic(), {}, 422, "model name 'Capital'"),
        ("%2e%2e%2fx", logistic(), {}, 404, "no route"),
    ],
    ids=str,
)  # fmt: skip
async def test_what_is_refused_leaves_no_trace(
    client: httpx.AsyncClient, store: RedisStore, model: str, content: bytes, how: dict[str, str], status: int, says: str
) -> None:
    before = await _everything(store)
    refused(await _import(client, model, content, **how), status, says)
    assert await _everything(store) == before
    assert (await client.get("/readyz")).status_code == 200


async def test_stored_bytes_that_are_not_those_published_are_not_served(client: httpx.AsyncClient, store: RedisStore) -> None:
    await _import(client, "bitrot", logistic())

    def other(model: Any) -> None:
        model.graph.node[1].op_type = "HardSigmoid"

    number = (await _import(client, "bitrot", logistic(other), line="other")).json()["version"]
    version = await store.version("bitrot", number)
    graph = await store.graph("bitrot", version.graph)
    await store.put_graph("bitrot", replace(graph, onnx=graph.onnx.replace(b"HardSigmoid", b"LeakyRelu\x00\x00")))
    variants = [{"name": "main", "line": "imported"}, {"name": "new", "version": number}]
    headers = TOKEN | {"if-match": (await client.get("/admin/models/bitrot/policy", headers=TOKEN)).headers["etag"]}
    reply = await client.put("/admin/models/bitrot/policy", headers=headers, json={"variants": variants, "default": "main"})
    assert reply.status_code == 200, reply.text
    [replica] = (await client.get("/admin/status", headers=TOKEN)).json()["replicas"]
    assert "not the one that was published" in replica["applied"]["bitrot"]["failed"][str(number)]
    assert replica["applied"]["bitrot"]["versions"] == {"main": 1}


async def test_an_import_cut_short_is_seen_by_nobody_and_can_be_repeated(client: httpx.AsyncClient, store: RedisStore) -> None:
    examined = examine(logistic(), Question(name="cut"))
    await publish_answered(store, "cut", examined.graph, examined.weights, examined.scores, "imported", examined.lineage)
    # Whoever imported it is gone before the model is on record.
    refused(await client.get("/admin/models/cut/versions", headers=TOKEN), 404, "no model 'cut'")
    assert (await client.get("/readyz")).status_code == 200
    made = (await _import(client, "cut", logistic())).json()
    assert (made["version"], made["answers"]) == (2, ["main"])
    assert (await _ask(client, "cut", [{"x": [1, 2, 3]}]))[0]["version"] == 2


async def test_imports_need_the_token(client: httpx.AsyncClient) -> None:
    refused(await client.post("/admin/models/fresh/versions", content=logistic()), 401, "Authorization")


@pytest.mark.parametrize("line", ["main", "main-compressed"])
async def test_the_trainers_lines_are_the_trainers(client: httpx.AsyncClient, store: RedisStore, line: str) -> None:
    before = await store.consumer(learner_consumer("learned", line))
    refused(await _import(client, "learned", logistic(), line=line), 422, f"'{line}' is the trainer's")
    assert await store.consumer(learner_consumer("learned", line)) == before


async def test_of_two_replicas_that_make_a_model_one_does(
    client: httpx.AsyncClient, store: RedisStore, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two files of different features, under one name: the second may not become a version of the first one's model."""
    both_at_work = threading.Barrier(2)

    def together(*given: Any) -> Examined:
        both_at_work.wait(30)
        return examine_apart(*given)

    monkeypatch.setattr("serving.imports.examine_apart", together)
    settings = ServingSettings(redis_url=redis_url, prefix=store._prefix, token="secret")  # pyright: ignore[reportPrivateUsage]
    names = {"x": logistic(), "y": logistic(_with_input("y"))}
    async with serving(settings) as other:
        replies = await asyncio.gather(_import(client, "torn", names["x"]), _import(other, "torn", names["y"]))
    won, lost = sorted(replies, key=lambda reply: reply.status_code)
    assert won.status_code == 201, won.text
    refused(lost, 409, "another import has made model 'torn' meanwhile")
    [version] = await store.versions("torn")
    feature = (await store.models())["torn"].features.fields[0].name
    assert version.lineage["sha256"] == hashlib.sha256(names[feature]).hexdigest()
    assert (await _ask(client, "torn", [{feature: [1, 2, 3]}]))[0]["version"] == 1
