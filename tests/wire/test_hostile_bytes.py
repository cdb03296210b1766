"""Bytes made to do harm: each is a BadRequest, is read in bounded memory, and never another exception."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from farfield_kernels.operation import Spec
from farfield_service.errors import BadRequest
from farfield_service.wire import Call, decode_frame, decode_msgpack, frame_header_end
from serving import frame, words
from wire.test_golden import msgpack_call

MB = 1_000_000
GROWTH_BYTES = 1 * MB
LARGE_GROWTH_BYTES = 8 * MB  # for bodies of 10 MB

SPEC = Spec("x+p", ("x = Vj(2)", "p = Pm(1)"))


def read_frame(body: bytes) -> Call:
    """A frame that arrived whole."""
    view = memoryview(body)
    return decode_frame(view[: frame_header_end(view[:16])], len(view))


def read_msgpack(body: bytes) -> Call:
    """A msgpack body."""
    return decode_msgpack(memoryview(body))


READERS: dict[str, Callable[[bytes], Call]] = {"frame": read_frame, "msgpack": read_msgpack}


def arrays() -> list[np.ndarray[Any, Any]]:
    """Arguments of SPEC."""
    return [np.ones((3, 2)), np.ones(1)]


def valid(kind: str) -> bytes:
    """A request that can be read."""
    return frame(SPEC, arrays()) if kind == "frame" else msgpack_call(SPEC, arrays())


def prefixed(header: bytes, segments: int = 0, magic: bytes = b"FFW1", flags: int = 0) -> bytes:
    """A frame without data."""
    return struct.pack("<4sIII", magic, len(header), flags, segments) + header


def changed(kind: str, **fields: Any) -> bytes:
    """A valid request but for some fields; a field that is `...` is left out."""
    content = msgpack.unpackb(msgpack_call(SPEC, arrays()))
    if kind == "frame":
        for tensor in content["arguments"]:
            del tensor["data"]
    content |= fields
    packed = msgpack.packb({name: value for name, value in content.items() if value is not ...})
    assert packed is not None
    return prefixed(packed, 2) + bytes(-(16 + len(packed)) % 64 + 64 + 8) if kind == "frame" else packed


def tensor(kind: str, **fields: Any) -> bytes:
    """A valid request but for fields of its first argument."""
    rest = msgpack.unpackb(msgpack_call(SPEC, arrays()))["arguments"]
    if kind == "frame":
        for one in rest:
            del one["data"]
    rest[0] |= fields
    return changed(kind, arguments=rest)


def raw(kind: str, content: bytes) -> bytes:
    """Bytes where the msgpack should be."""
    return prefixed(content) if kind == "frame" else content


NESTED_LISTS = b"\x91" * 60_000 + b"\xc0"
NESTED_MAPS = b"\x81\xa1a" * 20_000 + b"\xc0"

# What is wrong -> the body, for either format.
BOTH: dict[str, Callable[[str], bytes]] = {
    "empty msgpack": lambda kind: raw(kind, b""),
    "not a map": lambda kind: raw(kind, msgpack.packb([1, 2])),
    "nil": lambda kind: raw(kind, b"\xc0"),
    "the unused byte": lambda kind: raw(kind, b"\xc1"),
    "trailing bytes": lambda kind: raw(kind, msgpack.packb(words(SPEC) | {"arguments": []}) + b"\0"),
    "nested lists": lambda kind: raw(kind, NESTED_LISTS),
    "nested maps": lambda kind: raw(kind, NESTED_MAPS),
    "nesting in a field": lambda kind: raw(kind, b"\x81\xa3wrt" + NESTED_LISTS),
    "nesting in an unknown field": lambda kind: raw(kind, b"\x81\xa1z" + NESTED_LISTS),
    "a map with a map as key": lambda kind: raw(kind, b"\x81\x80\xc0"),
    "a map said to have 2**32-1 entries": lambda kind: raw(kind, b"\xdf\xff\xff\xff\xff"),
    "a list said to have 2**32-1 entries": lambda kind: raw(kind, b"\x81\xa9variables\xdd\xff\xff\xff\xff"),
    "a text said to have 2**32-1 bytes": lambda kind: raw(kind, b"\x81\xa7formula\xdb\xff\xff\xff\xff"),
    "invalid UTF-8 in a field": lambda kind: raw(kind, b"\x81\xa7formula\xa2\xff\xfe"),
    "invalid UTF-8 in a key": lambda kind: raw(kind, b"\x81\xa2\xff\xfe\xc0"),
    "an extension type": lambda kind: changed(kind, formula=msgpack.ExtType(5, b"abc")),
    "a timestamp": lambda kind: changed(kind, axis=msgpack.Timestamp(0)),
    "an unknown key": lambda kind: changed(kind, surprise=1),
    "no formula": lambda kind: changed(kind, formula=...),
    "no variables": lambda kind: changed(kind, variables=...),
    "formula of bytes": lambda kind: changed(kind, formula=b"x"),
    "formula of nil": lambda kind: changed(kind, formula=None),
    "variables of text": lambda kind: changed(kind, variables="x = Vj(2)"),
    "variables of numbers": lambda kind: changed(kind, variables=[1, 2]),
    "1000 variables": lambda kind: changed(kind, variables=["x = Vj(2)"] * 1000),
    "reduction of a number": lambda kind: changed(kind, reduction=1),
    "axis of text": lambda kind: changed(kind, axis="1"),
    "axis of truth": lambda kind: changed(kind, axis=True),
    "axis of a fraction": lambda kind: changed(kind, axis=0.5),
    "wrt of numbers": lambda kind: changed(kind, wrt=[0]),
    "wrt of text": lambda kind: changed(kind, wrt=[["x"]]),
    "wrt of order 5": lambda kind: changed(kind, wrt=[[0]] * 5),
    "wrt of 1000 numbers": lambda kind: changed(kind, wrt=[[0] * 1000]),
    "arguments of a map": lambda kind: changed(kind, arguments={}),
    "arguments of numbers": lambda kind: changed(kind, arguments=[1, 2]),
    "300 arguments": lambda kind: changed(kind, arguments=[{"dtype": "float64", "shape": [0]}] * 300),
    "an unknown key in an argument": lambda kind: tensor(kind, strides=[1]),
    "a negative length": lambda kind: tensor(kind, shape=[-3, 2]),
    "two negative lengths": lambda kind: tensor(kind, shape=[-3, -2]),
    "a length of 2**60": lambda kind: tensor(kind, shape=[2**60, 2]),
    "a length of 2**64 - 1": lambda kind: tensor(kind, shape=[2**64 - 1, 2]),
    "lengths whose product is 2**65": lambda kind: tensor(kind, shape=[2**33, 2**32]),
    "300 axes": lambda kind: tensor(kind, shape=[1] * 300),
    "a shape of fractions": lambda kind: tensor(kind, shape=[3.0, 2.0]),
    "a shape of text": lambda kind: tensor(kind, shape="32"),
    "an unknown dtype": lambda kind: tensor(kind, dtype="float128"),
    "the dtype object": lambda kind: tensor(kind, dtype="O"),
    "a structured dtype": lambda kind: tensor(kind, dtype="f8,f8"),
    "a dtype of 1 kB": lambda kind: tensor(kind, dtype="f" * 1000),
    "a dtype of nil": lambda kind: tensor(kind, dtype=None),
    "a row more than there is": lambda kind: tensor(kind, shape=[40, 2]),
    "a row less than there is": lambda kind: tensor(kind, shape=[0, 2]),
}

FRAMES: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "three bytes": lambda: b"FFW",
    "another protocol": lambda: b"GET / HTTP/1.1\r\n\r\n",
    "a later version": lambda: valid("frame").replace(b"FFW1", b"FFW2"),
    "flags": lambda: prefixed(b"\x80", flags=1),
    "all flags": lambda: prefixed(b"\x80", flags=2**32 - 1),
    "a header over 64 KiB": lambda: prefixed(b"\x80" + bytes(64 * 1024)),
    "a header said to have 4 GiB": lambda: struct.pack("<4sIII", b"FFW1", 2**32 - 1, 0, 0),
    "a header past the body": lambda: struct.pack("<4sIII", b"FFW1", 100, 0, 0) + b"\x80",
    "a segment too many": lambda: valid("frame")[:12] + b"\x03" + valid("frame")[13:],
    "a segment too few": lambda: valid("frame")[:12] + b"\x01" + valid("frame")[13:],
    "2**32-1 segments": lambda: valid("frame")[:12] + b"\xff" * 4 + valid("frame")[16:],
    "a byte too many": lambda: valid("frame") + b"\0",
    "a byte too few": lambda: valid("frame")[:-1],
    "data in the header": lambda: tensor("frame", data=b"12345678" * 6),
}

MSGPACKS: dict[str, Callable[[], bytes]] = {
    "10 MB of empty maps": lambda: b"\xdd" + struct.pack(">I", 10 * MB) + b"\x80" * (10 * MB),
    "10 MB of empty maps as arguments": lambda: _field(b"arguments", b"\x80"),
    "10 MB of empty maps as variables": lambda: _field(b"variables", b"\x80"),
    "10 MB of empty texts as variables": lambda: _field(b"variables", b"\xa0"),
    "10 MB of empty lists as wrt": lambda: _field(b"wrt", b"\x90"),
    "10 MB of numbers within wrt": lambda: _field(b"wrt", b"\x00", depth=1),
    "10 MB of numbers as shape": lambda: tensor("msgpack", shape=[1] * (10 * MB)),
    "10 MB of unknown keys": lambda: b"\xdf" + struct.pack(">I", 5 * MB) + b"\xa0\xc0" * (5 * MB),
    "10 MB of nested lists": lambda: b"\x91" * (10 * MB),
    "10 MB in an unknown field": lambda: changed("msgpack", surprise=b"x" * (10 * MB)),
    "a dtype that holds data": lambda: tensor("msgpack", dtype=b"float64"),
    "data of text": lambda: tensor("msgpack", data="x" * 48),
    "data of a list": lambda: tensor("msgpack", data=[1.0] * 6),
    "data of an extension type": lambda: tensor("msgpack", data=msgpack.ExtType(1, b"x" * 48)),
    "no data": lambda: tensor("msgpack", data=None),
    "a byte of data too many": lambda: tensor("msgpack", data=b"x" * 49),
    "a byte of data too few": lambda: tensor("msgpack", data=b"x" * 47),
}

# Texts are read whole before they are measured: memory for one copy of them and no more.
LONG_TEXTS: dict[str, Callable[[], bytes]] = {
    "a formula of 5 MB": lambda: changed("msgpack", formula="x" * (5 * MB)),
    "a variable of 5 MB": lambda: changed("msgpack", variables=["x" * (5 * MB)]),
    "a reduction of 5 MB": lambda: changed("msgpack", reduction="x" * (5 * MB)),
    "a dtype of 1 MB": lambda: tensor("msgpack", dtype="f" * MB),
    "a dtype of 5 MB": lambda: tensor("msgpack", dtype="x" * (5 * MB)),
    "a key of 2 MB": lambda: changed("msgpack", **{"x" * (2 * MB): 1}),  # the decoder quotes it
}


def _field(name: bytes, item: bytes, depth: int = 0) -> bytes:
    """A map of one field that is a list of 10 million equal items."""
    key = bytes([0xA0 + len(name)]) + name
    return b"\x81" + key + b"\x91" * depth + b"\xdd" + struct.pack(">I", 10 * MB) + item * (10 * MB)


def refused(kind: str, body: bytes) -> tuple[BadRequest, int]:
    """The error that the body gives, and by how much memory grew at most."""
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest) as caught:
            READERS[kind](body)
        return caught.value, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", READERS)
def test_the_valid_neighbour_is_read(kind: str) -> None:
    """What the tables below break is a request that can be read, and breaking nothing leaves it so."""
    for body in (valid(kind), changed(kind), tensor(kind)):
        assert READERS[kind](body).words.spec() == SPEC


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("name", BOTH)
def test_wrong_msgpack_is_refused(kind: str, name: str) -> None:
    """Each row is a BadRequest with a short sentence, in either format, within 1 MB."""
    error, growth = refused(kind, BOTH[name](kind))
    assert len(error.message) < 500
    assert growth < GROWTH_BYTES


@pytest.mark.parametrize("name", FRAMES)
def test_wrong_frames_are_refused(name: str) -> None:
    """Each row is a BadRequest, within 1 MB."""
    error, growth = refused("frame", FRAMES[name]())
    assert len(error.message) < 500
    assert growth < GROWTH_BYTES


@pytest.mark.parametrize("name", [*MSGPACKS, *LONG_TEXTS])
def test_wrong_msgpack_bodies_are_refused(name: str) -> None:
    """Each row is a BadRequest with a short sentence, within 1 MB; 8 MB where a long text is read."""
    body = (MSGPACKS | LONG_TEXTS)[name]()
    error, growth = refused("msgpack", body)
    assert len(error.message) < 500
    assert growth < (LARGE_GROWTH_BYTES if name in LONG_TEXTS else GROWTH_BYTES)


def test_a_key_given_twice_counts_as_its_last() -> None:
    """What msgpack leaves open has one answer, whatever the route."""
    body = b"\x83" + b"".join(msgpack.packb(part) for part in ("formula", "x", "variables", ["x = Vj(2)"]))
    assert read_msgpack(body + msgpack.packb("formula") + msgpack.packb("2*x")).words.formula == "2*x"


@pytest.mark.parametrize("kind", READERS)
def test_a_request_cut_anywhere_is_refused(kind: str) -> None:
    """Every proper beginning of a valid request is a BadRequest."""
    body = valid(kind)
    for length in range(len(body)):
        with pytest.raises(BadRequest):
            READERS[kind](body[:length])


@pytest.mark.parametrize("kind", READERS)
@given(data=st.data())
def test_mutated_requests_are_read_or_refused(kind: str, data: st.DataObject) -> None:
    """Random changes to a valid request give a call whose spans lie in the body, or a BadRequest."""
    body = bytearray(valid(kind))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(body)))
        cut = data.draw(st.integers(0, 3))
        body[place : place + cut] = data.draw(st.binary(max_size=4))
    try:
        call = READERS[kind](bytes(body))
    except BadRequest:
        return
    assert all(0 <= start <= end <= len(body) for start, end in call.spans)
