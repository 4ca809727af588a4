"""Tensors on the wire, as the Open Inference Protocol has them: in JSON, or raw after it (the binary tensor extension)."""

import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NotRequired

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import to_json
from typing_extensions import TypedDict

from serving.errors import BadRequest, TooLarge
from serving.http import place

TYPES: dict[str, str] = {
    "BOOL": "?",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
    "BYTES": "O",
}
"""The protocol's datatypes as numpy's, bytes in the protocol's order."""

_KINDS = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}
"""What JSON data may read as, by the kind of the datatype."""

_Name = Annotated[str, Field(min_length=1, max_length=256)]
_Parameters = dict[str, Any]


class _Input(TypedDict):
    __pydantic_config__ = ConfigDict(strict=True)  # pyright: ignore[reportGeneralTypeIssues]

    name: _Name
    shape: Annotated[list[Annotated[int, Field(ge=0, le=2**31)]], Field(max_length=8)]
    datatype: Annotated[str, Field(max_length=16)]
    parameters: NotRequired[_Parameters]
    data: NotRequired[list[Any]]


class _Output(TypedDict):
    __pydantic_config__ = ConfigDict(strict=True)  # pyright: ignore[reportGeneralTypeIssues]

    name: _Name
    parameters: NotRequired[_Parameters]


class _Request(TypedDict):
    __pydantic_config__ = ConfigDict(strict=True)  # pyright: ignore[reportGeneralTypeIssues]

    inputs: Annotated[list[_Input], Field(min_length=1, max_length=10_000)]
    id: NotRequired[Annotated[str, Field(max_length=256)]]
    parameters: NotRequired[_Parameters]
    outputs: NotRequired[Annotated[list[_Output], Field(max_length=1000)]]


_REQUEST = TypeAdapter[_Request](_Request)
_EXPECTED = 'expected {"inputs": [{"name": …, "shape": […], "datatype": …, "data": […]}]}'


@dataclass(frozen=True, slots=True)
class Tensors:
    """A request as read: arrays by input, and what is wanted of the answer.

    Attributes:
        outputs: the names asked for with whether each is wanted raw; None for all of the model's own, as `raw` says.
    """

    inputs: dict[str, np.ndarray]
    id: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    outputs: dict[str, bool] | None = None
    raw: bool = False


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """Return a body as it was before `gzip` or `deflate`.

    Raises:
        BadRequest: another encoding, or damaged.
        TooLarge: it would be over the limit.
    """
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        raise BadRequest(f"Content-Encoding '{encoding[:80]}': send gzip, deflate, or the body as it is")
    reader = zlib.decompressobj(zlib.MAX_WBITS | 16 if encoding == "gzip" else zlib.MAX_WBITS)
    try:
        made = reader.decompress(body, limit + 1)
    except zlib.error:
        raise BadRequest(f"the body is not {encoding}, as its Content-Encoding says") from None
    if len(made) > limit:
        raise TooLarge(f"the body is over {limit:,} bytes; send fewer rows in a request")
    if not reader.eof or reader.unused_data:
        raise BadRequest(f"the body's {encoding} stream does not end where the body does")
    return made


def deflate(body: bytes, encoding: str) -> bytes:
    """Return a body in `gzip` or `deflate`."""
    writer = zlib.compressobj(1, wbits=zlib.MAX_WBITS | 16 if encoding == "gzip" else zlib.MAX_WBITS)
    return writer.compress(body) + writer.flush()


def read(body: bytes, header_bytes: int | None = None) -> Tensors:
    """Read a request.

    Args:
        header_bytes: how long the JSON is that raw tensors follow; None where the whole body is JSON.

    Raises:
        BadRequest: the body is no inference request; the text names the input.
    """
    if header_bytes is not None and header_bytes > len(body):
        raise BadRequest(f"Inference-Header-Content-Length is {header_bytes:,}, but the body has {len(body):,} bytes")
    try:
        request = _REQUEST.validate_json(body if header_bytes is None else memoryview(body)[:header_bytes].tobytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        if first["type"] == "json_invalid":
            raise BadRequest(f"the body is not JSON: {first['msg'].removeprefix('Invalid JSON: ')}") from None
        raise BadRequest(f"{place(first['loc']) or 'the body'}: {first['msg']}; {_EXPECTED}") from None
    inputs, at = dict[str, np.ndarray](), len(body) if header_bytes is None else header_bytes
    for given in request["inputs"]:
        name = given["name"]
        if name in inputs:
            raise BadRequest(f"input '{name[:80]}' is there twice")
        inputs[name], at = _input(given, body, at)
    if at != len(body):
        raise BadRequest(f"{len(body) - at:,} bytes follow the last input; binary_data_size says whose they are")
    parameters = request.get("parameters", {})
    raw = parameters.get("binary_data_output") is True
    outputs = request.get("outputs")
    wanted = {one["name"]: one.get("parameters", {}).get("binary_data", raw) is True for one in outputs} if outputs else None
    return Tensors(inputs, request.get("id"), parameters, wanted, raw)


def _input(given: _Input, body: bytes, at: int) -> tuple[np.ndarray, int]:
    """Return an input's array, and where the next one's bytes begin."""
    name, datatype, shape = given["name"][:80], given["datatype"], given["shape"]
    if datatype not in TYPES:
        raise BadRequest(f"input '{name}': datatype '{datatype}' is not one of {', '.join(TYPES)}")
    count = math.prod(shape)
    size = given.get("parameters", {}).get("binary_data_size")
    if size is None:
        if "data" not in given:
            raise BadRequest(f"input '{name}': neither 'data' nor the parameter binary_data_size is there")
        flat = _texts(name, given["data"]) if datatype == "BYTES" else _numbers(name, datatype, given["data"])
        end = at
    else:
        if not isinstance(size, int) or isinstance(size, bool) or size < 0 or "data" in given:
            raise BadRequest(f"input '{name}': binary_data_size must be a number of bytes, in place of 'data'")
        end = at + size
        if end > len(body):
            raise BadRequest(f"input '{name}': its {size:,} bytes are not all there")
        part = memoryview(body)[at:end]
        flat = _raw_texts(name, part) if datatype == "BYTES" else _raw_numbers(name, datatype, part)
    if flat.size != count:
        raise BadRequest(f"input '{name}': its shape {shape} has {count:,} elements, its data {flat.size:,}")
    return flat.reshape(shape), end


def _numbers(name: str, datatype: str, data: list[Any]) -> np.ndarray:
    wanted = np.dtype(TYPES[datatype])
    try:
        found = np.array(data) if data else np.zeros(0, wanted)
        if found.dtype == np.object_ and wanted.kind == "f":
            found = np.array(data, dtype=np.float64)  # where a null is among the numbers, it is a missing one
    except (ValueError, TypeError, OverflowError):
        raise BadRequest(f"input '{name}': its data are no numbers, or lists of different lengths") from None
    if found.size and found.dtype.kind not in _KINDS[wanted.kind]:
        raise BadRequest(f"input '{name}': its data are not of datatype {datatype}")
    if wanted.kind in "iu" and found.size:
        limits = np.iinfo(wanted)
        if int(found.min()) < limits.min or int(found.max()) > limits.max:
            raise BadRequest(f"input '{name}': its data hold numbers that {datatype} has not")
    if wanted.kind == "f":
        return found.astype(np.float64)  # read as a request's JSON is, not rounded first
    return found.astype(wanted)


def _texts(name: str, data: list[Any]) -> np.ndarray:
    flat: list[str | None] = []
    left: list[Any] = [data]
    while left:
        value = left.pop()
        if isinstance(value, list):
            left.extend(reversed(value))  # pyright: ignore[reportUnknownArgumentType]
        elif value is None or isinstance(value, str):
            flat.append(value)
        else:
            raise BadRequest(f"input '{name}': datatype BYTES needs strings")
    return _objects(flat)


def _raw_numbers(name: str, datatype: str, part: memoryview) -> np.ndarray:
    wanted = np.dtype(TYPES[datatype])
    if len(part) % wanted.itemsize:
        raise BadRequest(f"input '{name}': {len(part):,} bytes are no whole number of {datatype}")
    if datatype == "BOOL" and np.frombuffer(part, dtype=np.uint8).max(initial=0) > 1:
        raise BadRequest(f"input '{name}': a BOOL is a byte of 0 or 1")
    return np.frombuffer(part, dtype=wanted)


def _raw_texts(name: str, part: memoryview) -> np.ndarray:
    """Each string is its length, four bytes, and then its own bytes."""
    flat: list[str | None] = []
    at = 0
    while at < len(part):
        end = at + 4 + (struct.unpack_from("<I", part, at)[0] if at + 4 <= len(part) else len(part))
        if end > len(part):
            raise BadRequest(f"input '{name}': its strings do not end where its bytes do")
        try:
            flat.append(str(part[at + 4 : end], "utf-8"))
        except UnicodeDecodeError:
            raise BadRequest(f"input '{name}': string {len(flat)} is not UTF-8") from None
        at = end
    return _objects(flat)


def _objects(values: Sequence[str | None]) -> np.ndarray:
    made = np.empty(len(values), dtype=np.object_)
    made[:] = values
    return made


def write(
    content: dict[str, Any], outputs: Mapping[str, tuple[str, np.ndarray]], raw: Mapping[str, bool]
) -> tuple[bytes, int | None]:
    """Return a response's body, and how long its JSON is where raw tensors follow it.

    Args:
        content: all of the JSON but the outputs.
        outputs: datatype and array by name.
        raw: which of them are wanted raw.
    """
    described: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for name, (datatype, array) in outputs.items():
        one: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(array.shape)}
        if raw[name]:
            parts.append(_packed(datatype, array))
            one["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            one["data"] = array.ravel().tolist()
        described.append(one)
    head = to_json(content | {"outputs": described})
    return (b"".join((head, *parts)), len(head)) if parts else (head, None)


def _packed(datatype: str, array: np.ndarray) -> bytes:
    if datatype != "BYTES":
        return array.astype(TYPES[datatype]).tobytes()
    texts: list[bytes] = [text.encode() for text in array.ravel()]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)
