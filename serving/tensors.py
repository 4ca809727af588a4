"""Tensors on the wire, as the Open Inference Protocol has them: in JSON, or raw after it (the binary tensor extension)."""

import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from types import NoneType
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

_MOST_ELEMENTS = 2**28
_ELEMENTS: dict[str, set[type]] = {"f": {int, float, NoneType}, "i": {int}, "u": {int}, "b": {bool}}
"""What JSON data may hold, by the kind of the datatype."""

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


def read(body: bytes, header_bytes: int | None = None, most_rows: int = 10_000) -> Tensors:
    """Read a request.

    Args:
        header_bytes: how long the JSON is that raw tensors follow; None where the whole body is JSON.
        most_rows: that a tensor may have; data of more are not looked at.

    Raises:
        BadRequest: the body is no inference request; the text names the input.
        TooLarge: a tensor has too many rows.
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
        inputs[name], at = _input(given, body, at, most_rows)
    if at != len(body):
        raise BadRequest(f"{len(body) - at:,} bytes follow the last input; binary_data_size says whose they are")
    parameters = request.get("parameters", {})
    raw = parameters.get("binary_data_output") is True
    outputs = request.get("outputs")
    wanted = {one["name"]: one.get("parameters", {}).get("binary_data", raw) is True for one in outputs} if outputs else None
    return Tensors(inputs, request.get("id"), parameters, wanted, raw)


def _input(given: _Input, body: bytes, at: int, most_rows: int) -> tuple[np.ndarray, int]:
    """Return an input's array, and where the next one's bytes begin."""
    name, datatype, shape = given["name"][:80], given["datatype"], given["shape"]
    if datatype not in TYPES:
        raise BadRequest(f"input '{name}': datatype '{datatype}' is not one of {', '.join(TYPES)}")
    count = _count(name, shape, most_rows)
    size = given.get("parameters", {}).get("binary_data_size")
    if size is None:
        if "data" not in given:
            raise BadRequest(f"input '{name}': neither 'data' nor the parameter binary_data_size is there")
        flat = _texts(name, given["data"]) if datatype == "BYTES" else _numbers(name, datatype, given["data"])
        end = at
    else:
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(body) or "data" in given:
            raise BadRequest(f"input '{name}': binary_data_size must be a number of bytes, in place of 'data'")
        end = at + size
        if end > len(body):
            raise BadRequest(f"input '{name}': its {size:,} bytes are not all there")
        part = memoryview(body)[at:end]
        flat = _raw_texts(name, part, count) if datatype == "BYTES" else _raw_numbers(name, datatype, part)
    if flat.size != count:
        raise BadRequest(f"input '{name}': its shape {shape} has {count:,} elements, its data {flat.size:,}")
    return flat.reshape(shape if count else (0,)), end  # of nothing, numpy minds how large the other sides are


def _count(name: str, shape: list[int], most_rows: int) -> int:
    """Return how many elements a shape has; raises TooLarge before anything of them is read."""
    if shape and shape[0] > most_rows:
        raise TooLarge(f"input '{name}': {shape[0]:,} are too many rows for one request; send at most {most_rows:,}")
    count = math.prod(shape)
    if count > _MOST_ELEMENTS:
        raise TooLarge(f"input '{name}': its shape {shape} has too many elements")
    return count


def _flat(name: str, data: list[Any]) -> tuple[list[Any], set[type]]:
    """Return nested or flat data flat, and the types of its elements; types are looked at before numpy may guess at them."""
    while list in (kinds := set(map(type, data))):
        if len(kinds) > 1:
            raise BadRequest(f"input '{name}': its data mix lists and values")
        data = list(chain.from_iterable(data))
    return data, kinds


def _numbers(name: str, datatype: str, data: list[Any]) -> np.ndarray:
    wanted = np.dtype(TYPES[datatype])
    flat, kinds = _flat(name, data)
    if kinds - _ELEMENTS[wanted.kind]:
        raise BadRequest(f"input '{name}': its data are not of datatype {datatype}")
    if NoneType in kinds:  # a missing number
        flat = [math.nan if value is None else value for value in flat]
    try:
        # Floats are read as a request's JSON is, not rounded first.
        return np.array(flat, dtype=np.float64 if wanted.kind == "f" else wanted)
    except OverflowError:
        raise BadRequest(f"input '{name}': its data hold numbers that {datatype} has not") from None


def _texts(name: str, data: list[Any]) -> np.ndarray:
    flat, kinds = _flat(name, data)
    if kinds - {str, NoneType}:
        raise BadRequest(f"input '{name}': datatype BYTES needs strings")
    return _objects(flat)


def _raw_numbers(name: str, datatype: str, part: memoryview) -> np.ndarray:
    wanted = np.dtype(TYPES[datatype])
    if len(part) % wanted.itemsize:
        raise BadRequest(f"input '{name}': {len(part):,} bytes are no whole number of {datatype}")
    if datatype == "BOOL" and np.frombuffer(part, dtype=np.uint8).max(initial=0) > 1:
        raise BadRequest(f"input '{name}': a BOOL is a byte of 0 or 1")
    return np.frombuffer(part, dtype=wanted)


def _raw_texts(name: str, part: memoryview, count: int) -> np.ndarray:
    """Each string is its length, four bytes, and then its own bytes."""
    flat: list[str | None] = []
    at = 0
    while at < len(part) and len(flat) <= count:
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
