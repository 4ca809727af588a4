"""A platform's HTTP API as Python calls: what the CLI, the demo and the benchmarks use."""

from typing import Any, Self
from urllib.parse import quote

import httpx

_IMPORT_S = 300.0


class ApiError(RuntimeError):
    """The platform refused; `status` is its HTTP status, the text its own words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """Synchronous. `token` is needed for operators' calls alone; `operator` is whom the record of decisions names."""

    def __init__(
        self,
        url: str,
        token: str = "",
        timeout_s: float = 60.0,
        *,
        operator: str = "",
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        headers |= {"x-operator": operator} if operator else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def predict(self, model: str, instances: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return self._call("POST", f"/models/{model}/predict", json={"instances": instances})["predictions"]

    def feedback(self, events: list[dict[str, Any]]) -> dict[str, Any]:
        return self._call("POST", "/feedback", json={"events": events})

    def policy(self, model: str) -> dict[str, Any]:
        return self._call("GET", f"/admin/models/{model}/policy")

    def set_policy(self, model: str, policy: dict[str, Any], epoch: int) -> dict[str, Any]:
        headers = {"if-match": f'"{epoch}"'}
        return self._call("PUT", f"/admin/models/{model}/policy", json=policy, headers=headers)

    def experiments(self, model: str) -> list[dict[str, Any]]:
        return self._call("GET", f"/admin/models/{model}/experiments")["experiments"]

    def experiment(self, model: str, name: str) -> dict[str, Any]:
        """The report of an experiment that runs, and what was decided of it."""
        return self._call("GET", f"/admin/models/{model}/experiments/{quote(name)}")

    def start_experiment(self, model: str, experiment: dict[str, Any], variants: list[dict[str, Any]]) -> dict[str, Any]:
        body = {"experiment": experiment, "variants": variants}
        return self._call("POST", f"/admin/models/{model}/experiments", json=body)

    def forecast(self, model: str, experiment: dict[str, Any], variants: list[dict[str, Any]]) -> dict[str, Any]:
        """How long an experiment is likely to take; nothing is started."""
        body = {"experiment": experiment, "variants": variants}
        return self._call("POST", f"/admin/models/{model}/experiments/forecast", json=body)

    def move_experiment(
        self, model: str, name: str, action: str, why: str = "", arm: str = "", *, force: bool = False
    ) -> dict[str, Any]:
        """stop, pause, resume, promote or rollback."""
        body = {"why": why, "arm": arm} | ({"force": True} if force else {})
        return self._call("POST", f"/admin/models/{model}/experiments/{quote(name)}/{action}", json=body)

    def promote(self, model: str, version: int, why: str = "", *, force: bool = False) -> dict[str, Any]:
        """Pin the default arm to a version; `force`: though its gates do not let it through."""
        body = {"why": why} | ({"force": True} if force else {})
        return self._call("POST", f"/admin/models/{model}/versions/{version}/promote", json=body)

    def audit(self, model: str = "", last: int = 100) -> list[dict[str, Any]]:
        """Who decided what, newest first."""
        return self._call("GET", "/admin/audit", params={"model": model, "last": last})["audit"]

    def models(self) -> dict[str, list[dict[str, Any]]]:
        """`models` on record, each with who serves and who trains it, and `removed` ones whose data are kept."""
        return self._call("GET", "/admin/models")

    def add_model(self, spec: str = "", model: str = "", why: str = "") -> dict[str, Any]:
        """Add the model of a spec, package.module:attribute, or bring back one that was removed."""
        body = {name: value for name, value in (("spec", spec), ("model", model), ("why", why)) if value}
        return self._call("POST", "/admin/models", json=body, timeout=_IMPORT_S)

    def remove_model(self, model: str, *, purge: bool = False, force: bool = False, why: str = "") -> dict[str, Any]:
        """Take a model out of service; `purge` drops its data, `force` does so in the middle of its experiments."""
        given = {"purge": "true" if purge else "", "force": "true" if force else "", "why": why}
        how = {name: value for name, value in given.items() if value}
        return self._call("DELETE", f"/admin/models/{quote(model, safe='')}", params=how)

    def versions(self, model: str, last: int = 20) -> list[dict[str, Any]]:
        return self._call("GET", f"/admin/models/{model}/versions", params={"last": last})["versions"]

    def version(self, model: str, number: int) -> dict[str, Any]:
        return self._call("GET", f"/admin/models/{quote(model, safe='')}/versions/{number}")

    def import_version(self, model: str, content: bytes, **how: str) -> dict[str, Any]:
        """Publish an ONNX file as a version; `how`: line, output, objective, classes, why."""
        headers = {"content-type": "application/octet-stream"}
        path = f"/admin/models/{quote(model, safe='')}/versions"
        return self._call("POST", path, content=content, params=how, headers=headers, timeout=_IMPORT_S)

    def retrain(self, model: str, wait_s: float = 30.0) -> dict[str, Any]:
        return self._call("POST", f"/admin/models/{model}/retrain", json={"wait_s": wait_s}, timeout=wait_s + 10.0)

    def schedule(self, model: str) -> dict[str, Any]:
        return self._call("GET", f"/admin/models/{model}/schedule")

    def set_schedule(self, model: str, outcomes: int | None, seconds: float | None, **more: Any) -> dict[str, Any]:
        """`more`: cron, timezone, on_drift."""
        schedule = {"outcomes": outcomes, "seconds": seconds} | more
        return self._call("PUT", f"/admin/models/{model}/schedule", json=schedule)

    def lines(self, model: str) -> dict[str, Any]:
        """How main learns, and the lines that learn beside it or did."""
        return self._call("GET", f"/admin/models/{quote(model, safe='')}/lines")

    def add_line(self, model: str, wanted: dict[str, Any]) -> dict[str, Any]:
        """`wanted`: name, start, learning, shape, instead, why."""
        return self._call("POST", f"/admin/models/{quote(model, safe='')}/lines", json=wanted)

    def end_line(self, model: str, name: str, action: str, why: str = "", *, force: bool = False) -> dict[str, Any]:
        """retire or promote; `force`: make it main though its gates do not let it through."""
        body = {"why": why} | ({"force": True} if force else {})
        return self._call("POST", f"/admin/models/{quote(model, safe='')}/lines/{quote(name, safe='')}/{action}", json=body)

    def drift(self, model: str) -> dict[str, Any]:
        """What was found of drift, newest first."""
        return self._call("GET", f"/admin/models/{model}/drift")

    def expectations(self, model: str) -> dict[str, Any]:
        """What a model's features are expected to be, and what violated it."""
        return self._call("GET", f"/admin/models/{model}/expectations")

    def set_expectations(self, model: str, expectations: list[dict[str, Any]], revision: int, why: str = "") -> dict[str, Any]:
        headers = {"if-match": f'"{revision}"'}
        body = {"expectations": expectations, "why": why}
        return self._call("PUT", f"/admin/models/{model}/expectations", json=body, headers=headers)

    def infer_expectations(self, model: str, why: str = "") -> dict[str, Any]:
        """Drop what is expected, edited or not, for what the trainer infers."""
        return self._call("DELETE", f"/admin/models/{model}/expectations", params={"why": why})

    def placement(self, model: str, variant: str) -> dict[str, Any]:
        """Where a variant is to answer, and where it does."""
        return self._call("GET", f"/admin/models/{model}/variants/{quote(variant)}/placement")

    def place(self, model: str, variant: str, wanted: dict[str, Any]) -> dict[str, Any]:
        return self._call("PUT", f"/admin/models/{model}/variants/{quote(variant)}/placement", json=wanted)

    def status(self) -> dict[str, Any]:
        return self._call("GET", "/admin/status")

    def keys(self) -> list[dict[str, Any]]:
        return self._call("GET", "/admin/keys")["keys"]

    def create_key(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Make a key; `key` of the answer is its text, shown this once."""
        return self._call("POST", "/admin/keys", json=wanted)

    def rotate_key(self, id_: str, overlap_s: float) -> dict[str, Any]:
        return self._call("POST", f"/admin/keys/{quote(id_)}/rotate", json={"overlap_s": overlap_s})

    def drop_key(self, id_: str) -> dict[str, Any]:
        return self._call("DELETE", f"/admin/keys/{quote(id_)}")

    def ready(self) -> dict[str, Any]:
        """What /readyz says, ready or not."""
        try:
            return self._http.get("/readyz").json()
        except (httpx.HTTPError, ValueError) as error:
            raise ApiError(0, f"GET /readyz: {error or type(error).__name__}") from error

    def _call(self, method: str, path: str, **options: Any) -> Any:
        try:
            reply = self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise ApiError(0, f"{method} {self._http.base_url}{path.lstrip('/')}: {error or type(error).__name__}") from error
        if reply.is_success:
            return reply.json()
        try:
            message = str(reply.json()["error"])
        except (ValueError, KeyError, TypeError):
            message = reply.text[:300] or f"HTTP {reply.status_code}"
        raise ApiError(reply.status_code, message)
