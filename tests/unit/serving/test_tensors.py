"""Tensors on the wire: what is written is read, and what is damaged is refused by name."""

import gzip
import json
import struct
import zlib
from typing import Any

import numpy as np
import pytest

from serving.errors import BadRequest, TooLarge
from serving.tensors import TYPES, deflate, inflate, read, write


def _body(**more: Any) -> bytes:
    given: dict[str, Any] = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2.5]}
    return json.dumps({"inputs": [given | more]}).encode()


@pytest.mark.parametrize("datatype", [name for name in TYPES if name not in ("BYTES", "BOOL")])
def test_what_is_written_raw_is_read_again(datatype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(TYPES[datatype])
    body, header = write({}, {"x": (datatype, array)}, {"x": True})
    assert header is not None
    head = json.loads(body[:header])["outputs"][0]
    request = json.dumps({"inputs": [head]}).encode()
    given = read(request + body[header:], len(request))
    np.testing.assert_array_equal(given.inputs["x"], array)
    assert given.inputs["x"].dtype == array.dtype


def test_texts_and_booleans_are_read_raw_and_in_json() -> None:
    texts = np.array([["a", "größe"], ["", "z"]], dtype=object)
    body, header = write({}, {"x": ("BYTES", texts)}, {"x": True})
    request = json.dumps({"inputs": [json.loads(body[:header])["outputs"][0]]}).encode()
    np.testing.assert_array_equal(read(request + body[header:], len(request)).inputs["x"], texts)
    listed = read(_body(datatype="BYTES", shape=[2, 2], data=[["a", "größe"], ["", "z"]])).inputs["x"]
    np.testing.assert_array_equal(listed, texts)
    np.testing.assert_array_equal(read(_body(datatype="BOOL", data=[True, False])).inputs["x"], [True, False])


def test_nested_and_flat_data_are_the_same_and_null_is_missing() -> None:
    flat = read(_body(shape=[2, 2], data=[1, 2, 3, 4])).inputs["x"]
    nested = read(_body(shape=[2, 2], data=[[1, 2], [3, 4]])).inputs["x"]
    np.testing.assert_array_equal(flat, nested)
    np.testing.assert_array_equal(read(_body(data=[1, None])).inputs["x"], [1.0, np.nan])


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"datatype": "FP8"}, "datatype 'FP8' is not one of"),
        ({"shape": [3]}, r"its shape \[3\] has 3 elements, its data 2"),
        ({"shape": [-1]}, "inputs.0.shape.0"),
        ({"shape": [2**31, 2**31, 2**31]}, "too many rows"),
        ({"shape": [1] * 9}, "inputs.0.shape"),
        ({"data": ["a", "b"]}, "not of datatype FP32"),
        ({"data": ["a" * 10_000, ""] * 100}, "not of datatype FP32"),
        ({"data": ["1.5", None]}, "not of datatype FP32"),
        ({"data": [True, 2]}, "not of datatype FP32"),
        ({"data": [[1, 2], [3]]}, "its data 3"),
        ({"data": [[1, 2], 3]}, "mix lists and values"),
        ({"data": [10**400, 1]}, "numbers that FP32 has not"),
        ({"data": [True, False]}, "not of datatype FP32"),
        ({"data": [1, {}]}, "not of datatype FP32"),
        ({"data": 3}, "inputs.0.data"),
        ({"datatype": "INT64", "data": [1, 2.5]}, "not of datatype INT64"),
        ({"datatype": "INT8", "data": [1, 200]}, "numbers that INT8 has not"),
        ({"datatype": "UINT8", "data": [-1, 2]}, "numbers that UINT8 has not"),
        ({"datatype": "INT64", "data": [1, 2**70]}, "numbers that INT64 has not"),
        ({"datatype": "INT64", "data": [1, None]}, "not of datatype INT64"),
        ({"datatype": "BOOL", "data": [1, 0]}, "not of datatype BOOL"),
        ({"datatype": "BYTES"}, "BYTES needs strings"),
        ({"parameters": {"binary_data_size": 8}}, "in place of 'data'"),
        ({"name": ""}, "inputs.0.name"),
        ({"name": 7}, "inputs.0.name"),
    ],
)
def test_a_damaged_input_is_refused_by_name(more: dict[str, Any], says: str) -> None:
    with pytest.raises((BadRequest, TooLarge), match=says):
        read(_body(**more))


def test_the_greatest_whole_numbers_are_read_and_nothing_of_any_shape_is_nothing() -> None:
    given = read(_body(datatype="UINT64", data=[2**64 - 1, 1])).inputs["x"]
    assert given.tolist() == [2**64 - 1, 1]
    empty = {"shape": [0, 2**31, 2**31, 2**31], "data": []}
    assert read(_body(**empty)).inputs["x"].size == 0


@pytest.mark.parametrize(
    ("body", "header", "says"),
    [
        (b"", None, "the body is not JSON"),
        (b"[]", None, "the body"),
        (b"{}", None, "inputs: Field required"),
        (b'{"inputs": []}', None, "inputs"),
        (b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32"}]}', None, "neither 'data' nor"),
        (_body()[:-1] + b', "more": 1}', 10_000, "the body has"),
        (_body() + b"1234", len(_body()), "4 bytes follow the last input"),
    ],
)
def test_a_damaged_body_is_refused(body: bytes, header: int | None, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        read(body, header)


@pytest.mark.parametrize(
    ("datatype", "size", "raw", "says"),
    [
        ("FP32", 8, b"1234", "are not all there"),
        ("FP32", 7, b"1234567", "no whole number of FP32"),
        ("FP32", -1, b"", "a number of bytes"),
        ("FP32", "8", b"12345678", "a number of bytes"),
        ("FP32", True, b"1", "a number of bytes"),
        ("BOOL", 2, b"\x00\x07", "a byte of 0 or 1"),
        ("BYTES", 6, struct.pack("<I", 9) + b"ab", "do not end where"),
        ("BYTES", 2, b"ab", "do not end where"),
        ("BYTES", 5, struct.pack("<I", 1) + b"\xff", "string 0 is not UTF-8"),
    ],
)
def test_damaged_raw_data_are_refused(datatype: str, size: Any, raw: bytes, says: str) -> None:
    one = {"name": "x", "shape": [2], "datatype": datatype, "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [one]}).encode()
    with pytest.raises(BadRequest, match=says):
        read(head + raw, len(head))


def test_inputs_of_one_name_are_refused() -> None:
    one = json.loads(_body())["inputs"][0]
    with pytest.raises(BadRequest, match="'x' is there twice"):
        read(json.dumps({"inputs": [one, one]}).encode())


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_encodings_are_read_and_written(encoding: str, pack: Any) -> None:
    body = _body() * 100
    assert inflate(pack(body), encoding, len(body)) == body
    assert inflate(deflate(body, encoding), encoding, len(body)) == body
    with pytest.raises(TooLarge, match="over"):
        inflate(pack(bytes(10_000_000)), encoding, 1000)
    with pytest.raises(BadRequest, match=f"is not {encoding}"):
        inflate(b"not at all", encoding, 1000)
    with pytest.raises(BadRequest, match="does not end"):
        inflate(pack(body)[:-5], encoding, len(body))
    with pytest.raises(BadRequest, match="does not end"):
        inflate(pack(body) + b"more", encoding, len(body))
    with pytest.raises(BadRequest, match="Content-Encoding 'br'"):
        inflate(body, "br", 1000)
