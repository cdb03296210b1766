"""Admission: refused by the headers alone, by the sizes; and admitted otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from farfield_kernels.errors import DtypeError, FarfieldError, LimitError, ShapeError
from farfield_kernels.operation import Spec, read
from farfield_service.admission import Results, check_body_headers, check_sizes, reserve
from farfield_service.arena import Arena
from farfield_service.errors import ANSWERS
from farfield_service.settings import Settings
from farfield_service.wire import FRAME, MSGPACK, decode_msgpack
from serving import GAUSSIAN, gaussian_arrays
from wire.test_golden import msgpack_call

LIMIT = 1000
HEADERS = {"content-type": FRAME, "content-length": "10"}

# What is sent -> status of the refusal; None is admitted.
HEADER_CASES: list[tuple[dict[str, str | None], int | None]] = [
    ({}, None),
    ({"content-type": MSGPACK}, None),
    ({"content-type": MSGPACK.upper() + " ; version=1"}, None),
    ({"content-type": None}, 415),
    ({"content-type": ""}, 415),
    ({"content-type": "application/json"}, 415),
    ({"content-type": FRAME + "x"}, 415),
    ({"content-encoding": "identity"}, None),
    ({"content-encoding": "gzip"}, 415),
    ({"content-length": None}, 411),
    ({"content-length": None, "transfer-encoding": "chunked"}, 411),
    ({"content-length": "0"}, None),
    ({"content-length": str(LIMIT)}, None),
    ({"content-length": str(LIMIT + 1)}, 413),
    ({"content-length": "9" * 18}, 413),
    ({"content-length": "9" * 400}, 400),
    ({"content-length": "-1"}, 400),
    ({"content-length": "1.5"}, 400),
    ({"content-length": "0x10"}, 400),
    ({"content-length": "\u0661\u0660"}, 400),  # digits, but not ASCII
    ({"content-length": "\u00b2"}, 400),
    ({"content-length": ""}, 400),
]


@pytest.mark.parametrize(("changes", "status"), HEADER_CASES)
def test_headers_alone_decide(changes: dict[str, str | None], status: int | None) -> None:
    """A body is refused with the tabled status, or its format and length are known."""
    headers = {name: value for name, value in (HEADERS | changes).items() if value is not None}
    settings = Settings(max_body_bytes=LIMIT)
    if status is None:
        kind, length = check_body_headers(settings, headers)
        assert kind in (FRAME, MSGPACK)
        assert length == int(headers["content-length"])
        return
    with pytest.raises(FarfieldError) as caught:
        check_body_headers(settings, headers)
    assert ANSWERS[caught.value.code].status == status
    assert len(caught.value.message) < 300
    assert caught.value.limit == (LIMIT if status == 413 else None)


# What is too large -> settings under which it is not, and is.
SIZE_CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"max_pairs": 35}, {"max_pairs": 34}),
    ({"max_result_bytes": 7 * 2 * 8}, {"max_result_bytes": 7 * 2 * 8 - 1}),
]


@pytest.mark.parametrize(("within", "below"), SIZE_CASES)
def test_pairs_and_results_are_limited(within: dict[str, Any], below: dict[str, Any]) -> None:
    """7 x 5 pairs with 112 bytes of results pass limits of that size, and no smaller ones."""
    operation = read(GAUSSIAN)
    call = decode_msgpack(memoryview(msgpack_call(GAUSSIAN, gaussian_arrays())))
    sizes = check_sizes(Settings(**within), operation, call)
    assert (sizes.M, sizes.N, sizes.dtype) == (7, 5, "float64")
    with pytest.raises(LimitError) as caught:
        check_sizes(Settings(**below), operation, call)
    assert caught.value.limit in below.values()


def test_arguments_are_checked_from_their_headers() -> None:
    """Shapes and types that do not fit the variables are refused by name."""
    x, y, b = gaussian_arrays()
    for arrays, kind in (([x, y, b[:4]], ShapeError), ([x, y.astype("float32"), b], DtypeError)):
        call = decode_msgpack(memoryview(msgpack_call(GAUSSIAN, arrays)))
        with pytest.raises(kind) as caught:
            check_sizes(Settings(), read(GAUSSIAN), call)
        assert caught.value.field in ("arguments[1]", "arguments[2]")


def test_room_is_reserved_for_every_result_apart_and_aligned() -> None:
    """Values and places of a maximum lie one after the other, each at a multiple of 64."""
    spec = Spec("x*y", ("x = Vi(3)", "y = Vj(3)"), "Max_ArgMax")
    operation = read(spec)
    arena = Arena(2**20)
    x, y, _ = gaussian_arrays(M=7, N=5)
    call = decode_msgpack(memoryview(msgpack_call(spec, [x, y])))
    room = reserve(arena, Results.of(operation, check_sizes(Settings(), operation, call)), body_bytes=100)
    assert (room.results.shapes, room.results.dtypes) == ([(7, 3), (7, 3)], ["float64", "int64"])
    assert all(offset % 64 == 0 for offset in room.offsets)
    assert room.offsets[1] >= room.offsets[0] + 7 * 3 * 8
    values, places = room.arrays()
    values[:], places[:] = 1, 2
    assert (values == 1).all()
    assert room.offsets[1] + places.nbytes <= room.lease.offset + room.lease.size
    del values, places
    room.lease.release()
    assert arena.used == 0
    arena.close()
