"""What one side encodes the other decodes, over element types and shapes; and nothing is copied to decode."""

from __future__ import annotations

import msgpack
import numpy as np
import pytest

from farfield.errors import ProtocolError
from farfield.wire import PREFIX, decode_results, encode_call
from farfield_kernels.operation import Spec
from farfield_service.wire import FRAME, MSGPACK, decode_frame, decode_msgpack, encode_results, frame_header_end
from serving import Array, words
from wire.test_golden import check_arrays, check_call, msgpack_call

SPEC = Spec("x", ("x = Vj(2)",))
DTYPES = ("float32", "float64", "int64")
SHAPES = [(0,), (1,), (63,), (64, 1), (0, 3), (3, 0), (1, 1), (7, 3), (5, 13), (2, 3, 4), (1000, 17)]


def filled(shape: tuple[int, ...], dtype: str) -> Array:
    """An array of distinct numbers."""
    return np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)


def lists() -> list[list[Array]]:
    """One list per array, then all of them together, then none."""
    single = [[filled(shape, dtype)] for dtype in DTYPES for shape in SHAPES]
    return [*single, [arrays[0] for arrays in single], []]


def test_requests_arrive_as_they_were_sent() -> None:
    """The server's view of a frame and of a msgpack body has the client's words and bytes."""
    for arrays in lists():
        body = b"".join(encode_call(words(SPEC), arrays))
        end = frame_header_end(memoryview(body)[:16])
        check_call(decode_frame(memoryview(body)[:end], len(body)), body, SPEC, arrays)
        body = msgpack_call(SPEC, arrays)
        check_call(decode_msgpack(memoryview(body)), body, SPEC, arrays)


def test_answers_arrive_as_they_were_sent() -> None:
    """The client reads the server's frame into the same arrays."""
    for arrays in lists():
        check_arrays(decode_results(memoryview(b"".join(encode_results(FRAME, arrays)))), arrays)


@pytest.mark.parametrize("kind", [FRAME, MSGPACK])
def test_an_answer_is_a_copy_of_its_slot(kind: str) -> None:
    """Whoever gets the slot next cannot change an answer on its way out."""
    slot = np.ones((4, 3))
    body = b"".join(encode_results(kind, [slot]))
    slot[:] = 2
    assert b"".join(encode_results(kind, [np.ones((4, 3))])) == body


def test_the_client_sends_views_of_its_arrays() -> None:
    """No piece of a request is a copy of array data."""
    x = np.ones((1000, 3))
    pieces = encode_call(words(SPEC), [x])
    assert any(np.shares_memory(np.frombuffer(piece, np.uint8), x) for piece in pieces)
    assert sum(len(p) for p in pieces if not np.shares_memory(np.frombuffer(p, np.uint8), x)) < 1000


def test_the_client_reads_results_as_views_of_the_body() -> None:
    """Results lie in the body that was received."""
    body = bytearray(b"".join(encode_results(FRAME, [np.ones((1000, 3)), np.zeros((5, 1), "int64")])))
    for array in decode_results(memoryview(body)):
        assert np.shares_memory(array, np.frombuffer(body, np.uint8))


def test_the_server_finds_msgpack_data_in_the_body() -> None:
    """The spans of a msgpack body point into it, however long the words before them."""
    x = filled((1000, 3), "float64")
    for length in range(8):
        spec = Spec("x" + " " * length, ("x = Vj(2)",))
        body = msgpack_call(spec, [x])
        check_call(decode_msgpack(memoryview(body)), body, spec, [x])


@pytest.mark.parametrize(
    "change",
    [
        lambda body: b"",
        lambda body: body[:15],
        lambda body: body[:40],
        lambda body: body[:-1],
        lambda body: body + b"\0",
        lambda body: b"HTTP" + body[4:],
        lambda body: body[:12] + b"\2" + body[13:],
        lambda body: body.replace(b"float64", b"object\0"),
        lambda body: body.replace(b"float64", b"floatxx"),
        lambda body: body.replace(b"results", b"resultz"),
        lambda body: body.replace(b"shape\x92\x04\x03", b"shape\x92\x04\xff"),
        lambda body: body.replace(b"shape\x92\x04\x03", b"shape\xa2\x04\x03"),
    ],
)
def test_an_answer_that_does_not_fit_is_a_protocol_error(change: object) -> None:
    """A broken answer gives one class of error, and the same answer unbroken is read."""
    body = b"".join(encode_results(FRAME, [np.ones((4, 3))]))
    check_arrays(decode_results(memoryview(body)), [np.ones((4, 3))])
    broken = change(body)  # type: ignore[operator]
    assert broken != body
    with pytest.raises(ProtocolError):
        decode_results(memoryview(broken))


@pytest.mark.parametrize("dtype", ["O", "V8", "<U4", "longdouble", ["f4"], None], ids=str)
def test_answers_of_other_types_are_not_made_into_arrays(dtype: object) -> None:
    """Bytes of a server that became objects would be pointers; float32 is the valid neighbour."""

    def answer(kind: object) -> memoryview:
        header = msgpack.packb({"results": [{"dtype": kind, "shape": [2]}]})
        head = PREFIX.pack(b"FFW1", len(header), 0, 1) + header
        item = np.dtype("float32" if kind == "float32" else "float64").itemsize
        return memoryview(head + bytes(-len(head) % 64) + b"A" * 2 * item)

    with pytest.raises(ProtocolError, match="element type"):
        decode_results(answer(dtype))
    assert decode_results(answer("float32"))[0].shape == (2,)
