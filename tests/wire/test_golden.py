"""The bytes that client and server agreed on, kept as files: what one side writes and the other must read."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import msgpack
import numpy as np
import pytest

from farfield.wire import decode_results, encode_call
from farfield_kernels.operation import Spec
from farfield_service.wire import (
    FRAME,
    MSGPACK,
    Call,
    decode_frame,
    decode_msgpack,
    encode_results,
    frame_header_end,
)
from serving import Array, words

GOLDEN = Path(__file__).parent / "golden"

# Name -> (spec, arguments) of a request.
CALLS: dict[str, tuple[Spec, Callable[[], list[Array]]]] = {
    "reduce": (Spec("x", ("x = Vj(2)",)), lambda: [np.array([[1, 2], [3, 4.5]], "float32")]),
    "no_rows": (Spec("x*p", ("x = Vj(1)", "p = Pm(1)")), lambda: [np.zeros((0, 1)), np.array([2.0])]),
    "vjp": (
        Spec("x", ("x = Vj(2)",), "Max_ArgMax", 1, ((0,),)),
        lambda: [np.ones((3, 2)), np.array([[0, 2]]), np.array([[1.0, -1.0]])],
    ),
}

# Name -> results of an answer.
RESULTS: dict[str, Callable[[], list[Array]]] = {
    "one": lambda: [np.array([[0.5, -2]], "float32")],
    "values_and_places": lambda: [np.array([[1.0], [np.nan]]), np.array([[2], [-1]])],
    "none": lambda: [np.zeros((0, 3))],
}

# The golden file reduce.frame.bin, piece by piece.
REDUCE_FRAME = [
    ("46465731", "magic, FFW1"),
    ("5c000000", "the header has 92 bytes, little-endian"),
    ("00000000", "flags"),
    ("01000000", "one segment"),
    ("86", "a map of six"),
    ("a7666f726d756c61 a178", "formula: x"),
    ("a97661726961626c6573 91 a978203d20566a283229", "variables: [x = Vj(2)]"),
    ("a9726564756374696f6e a353756d", "reduction: Sum"),
    ("a461786973 01", "axis: 1"),
    ("a3777274 90", "wrt: []"),
    ("a9617267756d656e7473 91 82", "arguments: a list of one map of two"),
    ("a56474797065 a7666c6f61743332", "dtype: float32"),
    ("a57368617065 920202", "shape: [2, 2]"),
    ("00" * 20, "zeros up to byte 128, a multiple of 64"),
    ("0000803f 00000040 00004040 00009040", "1, 2, 3, 4.5"),
]


def msgpack_call(spec: Spec, arrays: Sequence[Array]) -> bytes:
    """The msgpack body of a request, as any client would make it."""
    tensors = [{"dtype": a.dtype.name, "shape": list(a.shape), "data": a.tobytes()} for a in arrays]
    packed: bytes = msgpack.packb(words(spec) | {"arguments": tensors})
    return packed


def agree(name: str, data: bytes, *, update: bool) -> bytes:
    """The golden file, after a comparison with `data`."""
    path = GOLDEN / f"{name}.bin"
    if update:
        path.write_bytes(data)
    golden = path.read_bytes()
    assert data.hex(" ", 4) == golden.hex(" ", 4)
    return golden


@pytest.fixture
def update(request: pytest.FixtureRequest) -> bool:
    """Whether the files are to be written anew."""
    return bool(request.config.getoption("--update-golden"))


def check_call(call: Call, body: bytes, spec: Spec, arrays: Sequence[Array]) -> None:
    """The server read the words and found each array's bytes."""
    assert call.words.spec() == spec
    assert [(t.dtype, tuple(t.shape)) for t in call.arguments] == [(a.dtype.name, a.shape) for a in arrays]
    assert [body[start:end] for start, end in call.spans] == [a.tobytes() for a in arrays]


def check_arrays(found: Sequence[Array], expected: Sequence[Array]) -> None:
    """Equal in type, shape and bytes, NaN included."""
    assert [(a.dtype, a.shape, a.tobytes()) for a in found] == [(a.dtype, a.shape, a.tobytes()) for a in expected]


@pytest.mark.parametrize("name", CALLS)
def test_the_client_writes_and_the_server_reads_the_golden_frame_of_a_request(name: str, update: bool) -> None:
    """`encode_call` gives the file's bytes, and `decode_frame` finds words and arrays in them."""
    spec, make = CALLS[name]
    arrays = make()
    body = agree(f"{name}.frame", b"".join(encode_call(words(spec), arrays)), update=update)
    end = frame_header_end(memoryview(body)[:16])
    check_call(decode_frame(memoryview(body)[:end], len(body)), body, spec, arrays)


@pytest.mark.parametrize("name", CALLS)
def test_the_server_reads_the_golden_msgpack_of_a_request(name: str, update: bool) -> None:
    """A body that only a msgpack library made has the file's bytes, and `decode_msgpack` reads them."""
    spec, make = CALLS[name]
    arrays = make()
    body = agree(f"{name}.msgpack", msgpack_call(spec, arrays), update=update)
    check_call(decode_msgpack(memoryview(body)), body, spec, arrays)


@pytest.mark.parametrize("name", RESULTS)
def test_the_server_writes_and_the_client_reads_the_golden_frame_of_an_answer(name: str, update: bool) -> None:
    """`encode_results` gives the file's bytes, and `decode_results` finds the arrays in them."""
    arrays = RESULTS[name]()
    body = agree(f"{name}.results.frame", b"".join(encode_results(FRAME, arrays)), update=update)
    check_arrays(decode_results(memoryview(body)), arrays)


@pytest.mark.parametrize("name", RESULTS)
def test_the_server_writes_the_golden_msgpack_of_an_answer(name: str, update: bool) -> None:
    """`encode_results` gives the file's bytes, and a msgpack library and NumPy alone read them."""
    arrays = RESULTS[name]()
    body = agree(f"{name}.results.msgpack", b"".join(encode_results(MSGPACK, arrays)), update=update)
    results = msgpack.unpackb(body)["results"]
    check_arrays([np.frombuffer(r["data"], r["dtype"]).reshape(r["shape"]) for r in results], arrays)


def test_the_layout_of_a_frame_is_the_documented_one() -> None:
    """The golden request is the pieces above, one after the other."""
    layout = "".join(piece for piece, _ in REDUCE_FRAME).replace(" ", "")
    assert layout == (GOLDEN / "reduce.frame.bin").read_bytes().hex()


@pytest.mark.parametrize("name", [*CALLS, *(f"{name}.results" for name in RESULTS)])
def test_segments_begin_at_multiples_of_64_and_the_frame_ends_with_the_last(name: str) -> None:
    """The rule for places, computed here anew from the header alone."""
    body = (GOLDEN / f"{name}.frame.bin").read_bytes()
    length, _, count = struct.unpack_from("<III", body, 4)
    header = msgpack.unpackb(body[16 : 16 + length])
    tensors = header.get("arguments") or header.get("results")
    end = 16 + length
    for tensor in tensors:
        start = -(-end // 64) * 64
        assert not any(body[end:start])
        end = start + int(np.prod(tensor["shape"])) * np.dtype(tensor["dtype"]).itemsize
    assert (count, end) == (len(tensors), len(body))
