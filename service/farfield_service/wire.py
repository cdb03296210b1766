"""Bytes -> words and views, for bytes that may be hostile; and results -> bytes. Format: see README.md.

Nothing is allocated on a sender's word: decoding is typed and bounded, tensor data are views of the buffer the
body was received into, and every size is checked with Python's unbounded integers before a view is made.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from farfield_kernels.arguments import numpy_dtype
from farfield_kernels.expr import Array
from farfield_kernels.operation import INDEX_DTYPE, STORED

from .errors import BadRequest
from .requests import Words

FRAME = "application/x-farfield"
MSGPACK = "application/msgpack"
MAGIC = b"FFW1"
PREFIX = struct.Struct("<4sIII")  # magic, header length, flags, segment count
ALIGNMENT = 64
MAX_HEADER_BYTES = 64 * 1024
MAX_TENSORS = 256
MAX_AXES = 18  # 16 of a batch
MAX_REASON = 200  # characters of a decoder's message, which may quote what was sent


class TensorHeader(msgspec.Struct, forbid_unknown_fields=True):
    """What is said of one tensor: element type and shape."""

    dtype: Annotated[str, Meta(max_length=16)]
    shape: Annotated[list[Annotated[int, Meta(ge=0, le=2**53)]], Meta(max_length=MAX_AXES)]

    def nbytes(self, field: str) -> int:
        """Bytes of its data."""
        if self.dtype not in (*STORED, INDEX_DTYPE):
            allowed = ", ".join((*STORED, INDEX_DTYPE))
            raise BadRequest(f"the element type '{self.dtype}' is not one of {allowed}", field=field)
        count = 1
        for length in self.shape:
            count *= length
        return count * numpy_dtype(self.dtype).itemsize


class Tensor(TensorHeader, forbid_unknown_fields=True):
    """A tensor in a msgpack body."""

    data: memoryview


# The fields of a request are declared once, in `Words`; a decoder is that list and the tensors.
_WORDS = [
    (name, info.rebuild_annotation(), info.get_default(call_default_factory=True))
    if not info.is_required()
    else (name, info.rebuild_annotation())
    for name, info in Words.model_fields.items()
]


def _decoder(name: str, tensor: type[TensorHeader]) -> msgspec.msgpack.Decoder[Any]:
    tensors = Annotated[list[tensor], Meta(max_length=MAX_TENSORS)]  # type: ignore[valid-type]
    fields: list[Any] = [*_WORDS, ("arguments", tensors, msgspec.field(default_factory=list))]
    required = [field for field in fields if len(field) == 2]
    optional = [field for field in fields if len(field) == 3]
    return msgspec.msgpack.Decoder(msgspec.defstruct(name, [*required, *optional], forbid_unknown_fields=True))


_frame_header = _decoder("FrameHeader", TensorHeader)
_msgpack_body = _decoder("MsgpackBody", Tensor)


class Call(msgspec.Struct):
    """A decoded request: its words, and where in the body the data of each argument lie."""

    words: Words
    arguments: list[TensorHeader]
    spans: list[tuple[int, int]]


def _words(decoded: Any) -> Words:
    return Words.model_validate({name: getattr(decoded, name) for name in Words.model_fields})


def _decode(decoder: msgspec.msgpack.Decoder[Any], data: memoryview) -> Any:
    try:
        return decoder.decode(data)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the msgpack cannot be read: {str(error)[:MAX_REASON]}") from None


def frame_header_end(prefix: memoryview) -> int:
    """Where the header of a frame ends, from its first 16 bytes.

    Raises:
        BadRequest: there are fewer, or they are not those of a frame.
    """
    if len(prefix) < PREFIX.size:
        raise BadRequest(f"a frame has at least {PREFIX.size} bytes, this one {len(prefix)}")
    magic, header_bytes, flags, _ = PREFIX.unpack_from(prefix)
    if magic != MAGIC:
        raise BadRequest(f"a frame begins with {MAGIC!r}, this one with {bytes(magic)!r}")
    if flags:
        raise BadRequest(f"flags are 0 in this version, got {flags}")
    if header_bytes > MAX_HEADER_BYTES:
        raise BadRequest(f"a header of {header_bytes} bytes is above the limit", limit=MAX_HEADER_BYTES)
    return PREFIX.size + int(header_bytes)


def decode_frame(head: memoryview, body_bytes: int) -> Call:
    """Read prefix and header of a frame; the data need not have arrived.

    Args:
        head: the frame up to the end of its header.
        body_bytes: the length of the whole body.

    Raises:
        BadRequest: anything that does not fit, the total length included.
    """
    decoded = _decode(_frame_header, head[PREFIX.size :])
    segments = PREFIX.unpack_from(head)[3]
    if segments != len(decoded.arguments):
        raise BadRequest(f"{segments} segments for {len(decoded.arguments)} arguments")
    spans, end = [], len(head)
    for place, tensor in enumerate(decoded.arguments):
        start = _align(end)
        end = start + tensor.nbytes(f"arguments[{place}]")
        spans.append((start, end))
    if end != body_bytes:
        raise BadRequest(f"the header describes {end} bytes, the body has {body_bytes}")
    return Call(_words(decoded), decoded.arguments, spans)


def decode_msgpack(body: memoryview) -> Call:
    """Read a msgpack body; the tensors' data are spans of it.

    Raises:
        BadRequest: anything that does not fit.
    """
    decoded = _decode(_msgpack_body, body)
    base = np.frombuffer(body, np.uint8).ctypes.data if len(body) else 0
    spans = []
    for place, tensor in enumerate(decoded.arguments):
        field = f"arguments[{place}]"
        expected = tensor.nbytes(field)
        if expected != len(tensor.data):
            raise BadRequest(
                f"{tensor.dtype} of shape {tensor.shape} takes {expected} bytes, data has {len(tensor.data)}",
                field=field,
            )
        start = np.frombuffer(tensor.data, np.uint8).ctypes.data - base if expected else 0
        spans.append((start, start + expected))
    return Call(_words(decoded), decoded.arguments, spans)


def _align(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def encode_results(kind: str, arrays: Sequence[Array]) -> list[bytes | memoryview]:
    """The body of an answer in the format `kind`, in pieces; those of a frame are views of the arrays."""
    if kind == MSGPACK:
        results = [{"dtype": a.dtype.name, "shape": a.shape, "data": a.tobytes()} for a in arrays]
        return [msgspec.msgpack.encode({"results": results})]
    layout = results_layout(*((array.dtype, array.shape) for array in arrays))
    pieces: list[bytes | memoryview] = []
    for (_, between), array in zip(layout.between, arrays, strict=False):
        pieces.append(between)
        if array.nbytes:
            pieces.append(array.reshape(-1).view(np.uint8).data)
    return pieces or [layout.between[0][1]]


@dataclass(frozen=True)
class Layout:
    """A frame of results, but for their data.

    Args:
        between: what is not data, in order: where it begins, and its bytes. Data begin where the bytes end.
        size: bytes of the whole frame.
    """

    between: tuple[tuple[int, bytes], ...]
    size: int

    @property
    def starts(self) -> list[int]:
        """Where the data of each result begin."""
        return [begin + len(piece) for begin, piece in self.between]


@functools.lru_cache(maxsize=1024)
def results_layout(*results: tuple[np.dtype[Any], tuple[int, ...]]) -> Layout:
    """The frame of results of such types and shapes."""
    said = [{"dtype": dtype.name, "shape": shape} for dtype, shape in results]
    header = msgspec.msgpack.encode({"results": said})
    piece = PREFIX.pack(MAGIC, len(header), 0, len(results)) + header
    between, begin = [], 0
    for dtype, shape in results:
        end = begin + len(piece)
        start = _align(end)
        between.append((begin, piece + bytes(start - end)))
        begin, piece = start + math.prod(shape) * dtype.itemsize, b""
    return Layout(tuple(between) or ((0, piece),), begin or len(piece))


__all__ = [
    "FRAME",
    "MSGPACK",
    "Call",
    "decode_frame",
    "decode_msgpack",
    "encode_results",
    "frame_header_end",
    "results_layout",
]
