"""Requests drawn from the server's own OpenAPI document, those that it describes and those that it does not."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.generation import GenerationMode

from farfield_kernels.operation import Spec
from farfield_service.wire import ALIGNMENT, FRAME, MAGIC, MSGPACK, PREFIX
from faults.count import Count
from serving import GAUSSIAN, Array, Server, gaussian_arrays, wait_for, words

CASES = Count(short=200, long=10_000)
SECONDS_LEFT = 60.0  # for one request

DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "uint8", "complex128", "")


def as_tensors(arrays: list[Array]) -> list[dict[str, Any]]:
    """Arrays as a body of msgpack has them."""
    return [{"dtype": a.dtype.name, "shape": list(a.shape), "data": a.tobytes()} for a in arrays]


COLUMNS = as_tensors([np.ones((3, 1)), np.ones((2, 1))])
VALID = (
    words(GAUSSIAN) | {"arguments": as_tensors(gaussian_arrays())},
    words(Spec("x*y", ("x = Vi(1)", "y = Vj(1)"), "Max")) | {"arguments": COLUMNS},
    words(Spec("x*y", ("x = Vi(1)", "y = Vj(1)"), "Sum", 1, ((0,),)))
    | {"arguments": [*COLUMNS, *as_tensors([np.ones((3, 1))])]},
)


@st.composite
def tensors(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Arguments, which the document leaves to prose: their bytes are mostly as many as their shape says."""
    drawn = []
    for _ in range(draw(st.integers(0, 4))):
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        size = 8
        for length in shape:
            size *= length
        size += draw(st.sampled_from((0, 0, 0, 1, -1)))
        drawn.append({"dtype": draw(st.sampled_from(DTYPES)), "shape": shape, "data": bytes(max(0, size))})
    return drawn


@st.composite
def bodies(draw: st.DrawFn, drawn: Any) -> Any:
    """A body of the document, or a valid one with some of its words; its arguments are mostly left alone."""
    if not isinstance(drawn, dict):
        return drawn
    valid = draw(st.none() | st.sampled_from(VALID))
    if valid is not None:
        kept = draw(st.lists(st.sampled_from(sorted(drawn)), max_size=2)) if drawn else []
        drawn = valid | {name: drawn[name] for name in kept}
    arguments = draw(st.none() | st.none() | tensors())
    return drawn if arguments is None else drawn | {"arguments": arguments}


def packed(value: Any) -> bytes:
    """A drawn body as msgpack, which has fewer numbers and texts than JSON."""
    with contextlib.suppress(OverflowError, UnicodeEncodeError, ValueError, TypeError):
        return bytes(msgpack.packb(value))
    return bytes(msgpack.packb(repr(value), unicode_errors="replace"))


def framed(value: Any) -> bytes:
    """A drawn body as a frame."""
    arguments = value.get("arguments") if isinstance(value, dict) else None
    if not isinstance(arguments, list) or not all(isinstance(a, dict) and "data" in a for a in arguments):
        header = packed(value)
        return PREFIX.pack(MAGIC, len(header), 0, 0) + header
    header = packed(value | {"arguments": [{k: v for k, v in a.items() if k != "data"} for a in arguments]})
    frame = PREFIX.pack(MAGIC, len(header), 0, len(arguments)) + header
    for argument in arguments:
        frame += bytes(-len(frame) % ALIGNMENT) + argument["data"]
    return frame


ENCODERS: dict[str, Callable[[Any], bytes]] = {MSGPACK: packed, FRAME: framed}


@schemathesis.serializer(*ENCODERS)
def _serialize(context: schemathesis.SerializationContext, value: Any) -> bytes:
    return ENCODERS[str(context.case.media_type)](value)


def test_requests_drawn_from_the_document_are_no_internal_error(server: Server, is_soak: bool) -> None:
    """Of all routes, valid and not: an answer is a result, a client's error, or word that the server is busy."""
    schema = schemathesis.openapi.from_dict(server.get("/openapi.json"))
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    cases = st.one_of([schema.as_strategy(generation_mode=mode) for mode in modes])
    restarts = server.info()["worker_restarts"]
    statuses: dict[str, set[int]] = defaultdict(set)

    @settings(
        max_examples=CASES.of(is_soak),
        deadline=None,
        database=None,
        derandomize=not is_soak,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(cases, st.data())
    def check(case: schemathesis.Case, data: st.DataObject) -> None:
        case.body = data.draw(bodies(case.body))
        response = case.call(base_url=server.url, session=session, timeout=SECONDS_LEFT)
        statuses[case.method].add(response.status_code)
        assert response.status_code < 500 or response.status_code == 503, response.content

    with requests.Session() as session:
        check()
    assert {200, 400, 422} <= statuses["POST"]
    wait_for(server.is_idle_and_empty, "an empty arena")
    assert server.info()["worker_restarts"] == restarts
    assert "Traceback" not in server.log.read_text()
