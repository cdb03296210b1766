"""Arrays -> frames and back, without copying them. The format is written down in service/README.md."""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np

from farfield_kernels.arguments import numpy_dtype
from farfield_kernels.operation import INDEX_DTYPE, STORED

from .errors import ProtocolError

Array = np.ndarray[Any, Any]
Tensor = tuple[np.dtype[Any], tuple[int, ...]]
"""What is said of an array."""

FRAME = "application/x-farfield"
MAGIC = b"FFW1"
PREFIX = struct.Struct("<4sIII")  # magic, header length, flags, segment count
ALIGNMENT = 64


def encode_call(words: dict[str, Any], arrays: Sequence[Array]) -> list[memoryview]:
    """The pieces of a request, to be sent one after the other; array data are views, not copies.

    Args:
        words: the fields of the `Spec`, and `ranges` if the last six arrays are block-sparse ranges.
        arrays: C-contiguous, little-endian.
    """
    return encode_data(encode_head(words, [(array.dtype, array.shape) for array in arrays]), arrays)


def encode_head(words: dict[str, Any], tensors: Sequence[Tensor]) -> bytes:
    """Prefix and header of a request, from the types and shapes of its arrays."""
    arguments = [{"dtype": dtype.name, "shape": shape} for dtype, shape in tensors]
    header: bytes = msgpack.packb(words | {"arguments": arguments})
    return PREFIX.pack(MAGIC, len(header), 0, len(tensors)) + header


def encode_data(head: bytes, arrays: Sequence[Array]) -> list[memoryview]:
    """The pieces of a request whose head is known; see `encode_call`."""
    pieces = [memoryview(head)]
    end = len(pieces[0])
    for array in arrays:
        padding = -end % ALIGNMENT
        if padding:
            pieces.append(memoryview(bytes(padding)))
        if array.nbytes:
            pieces.append(array.reshape(-1).view(np.uint8).data)
        end += padding + array.nbytes
    return pieces


def decode_results(body: memoryview) -> list[Array]:
    """The arrays of an answer, as views of its body.

    Raises:
        ProtocolError: the body is not a frame.
    """
    try:
        end = PREFIX.size + PREFIX.unpack_from(body)[1]
        arrays = []
        for dtype, shape in _read_head(bytes(body[:end])):
            start = end + -end % ALIGNMENT
            array = np.ndarray(shape, dtype, buffer=body, offset=start)
            end = start + array.nbytes
            arrays.append(array)
        if end != len(body):
            raise ValueError(f"its header describes {end} bytes")
    except (ValueError, KeyError, TypeError, OverflowError, struct.error, msgpack.UnpackException) as error:
        raise ProtocolError(f"the answer of {len(body)} bytes cannot be read: {error}") from None
    return arrays


@functools.lru_cache(maxsize=1024)
def _read_head(head: bytes) -> list[Tensor]:
    """What the prefix and header of an answer say of its arrays; kept, as most calls are made again."""
    magic, _, _, count = PREFIX.unpack_from(head)
    results = msgpack.unpackb(head[PREFIX.size :])["results"]
    if magic != MAGIC or count != len(results):
        raise ValueError("it does not begin like a frame")
    for result in results:
        if result["dtype"] not in (*STORED, INDEX_DTYPE):  # any other would let bytes become pointers
            raise ValueError(f"its element type is {result['dtype']!r}")
    return [(numpy_dtype(result["dtype"]), tuple(result["shape"])) for result in results]
