"""A detector's state as bytes: numbers, texts, lists and small arrays, by msgpack; the same state gives the same bytes."""

import json
from typing import Any

import msgpack
import numpy as np

_ARRAY = 1


def pack(state: Any) -> bytes:
    """
    >>> unpack(pack({"n": 1, "x": np.arange(3.0)}))
    {'n': 1, 'x': array([0., 1., 2.])}
    """
    return msgpack.packb(state, default=_packed)  # pyright: ignore[reportReturnType]


def unpack(content: bytes) -> Any:
    return msgpack.unpackb(content, ext_hook=_unpacked, strict_map_key=False)


def _packed(value: Any) -> msgpack.ExtType:
    if isinstance(value, np.ndarray):
        body = (value.dtype.str, value.shape, np.ascontiguousarray(value).tobytes())
        return msgpack.ExtType(_ARRAY, msgpack.packb(body))  # pyright: ignore[reportArgumentType]
    raise TypeError(f"no place in a state for {type(value).__name__}")


def _unpacked(_: int, content: bytes) -> np.ndarray:
    dtype, shape, body = msgpack.unpackb(content)
    return np.frombuffer(bytearray(body), np.dtype(dtype)).reshape(shape)


def join(checkpoint: bytes, state: bytes) -> bytes:
    """Put a state behind a learner's checkpoint, whose safetensors header says where it ends."""
    return checkpoint + state


def split(blob: bytes) -> tuple[bytes, bytes]:
    """Return a learner's checkpoint and the state behind it, empty if there is none."""
    end = 8 + int.from_bytes(blob[:8], "little")
    header: dict[str, Any] = json.loads(blob[8:end])
    end += max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    return blob[:end], blob[end:]
