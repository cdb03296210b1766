"""Networks that fail between client and server: a right result or a typed error, in time, and nothing held."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import numpy as np
import pytest

from farfield.errors import DeadlineError, FarfieldError, ServerError
from farfield.session import Session
from farfield.transport import Http
from faults.count import Count
from faults.proxy import Action, Direction, Fault, FaultProxy, Place
from serving import COPY, Server, numbered, serving, wait_for

ROWS = (100, 50_000)  # of two float64: 1.6 kB go out at once, 0.8 MB do not
TIMEOUT_S = 0.5
SLACK_S = 4.0  # for a machine that does much else
CALLS = Count(short=1, long=50)  # through each fault

ACTIONS: tuple[Action, ...] = ("reset", "close", "freeze")
PLACES: tuple[tuple[Direction, Place], ...] = (
    ("request", 0),
    ("request", "head"),
    ("request", "body"),
    ("request", 700),
    ("request", "end"),  # before the answer
    ("answer", 1),
    ("answer", "head"),
    ("answer", "body"),
    ("answer", 500),
)
BROKEN = [Fault(action, direction, place) for action in ACTIONS for direction, place in PLACES]
SLOW = [
    Fault(latency_s=0.01),
    Fault(direction="request", bytes_per_s=20e6),
    Fault(direction="answer", bytes_per_s=20e6),
    Fault("close", "answer", "end", latency_s=0.001),
    Fault("reset", "answer", "end"),
]


def describe(fault: Fault) -> str:
    """The name of a case."""
    if fault.action:
        return f"{fault.action} at {fault.place} of the {fault.direction}"
    if fault.latency_s:
        return f"{fault.latency_s:g} s late"
    return f"{fault.bytes_per_s:g} bytes a second of the {fault.direction}"


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that gives up silent clients soon."""
    flags = [f"--{name}-s=1" for name in ("head-timeout", "receive-timeout", "keep-alive")]
    with serving(tmp_path_factory.mktemp("network"), *flags) as running:
        yield running


@pytest.fixture
def proxy_to(victim: Server) -> Callable[[Callable[[int], Fault]], FaultProxy]:
    """Makes a proxy in front of the server."""
    address = urlsplit(victim.url)

    def make(choose: Callable[[int], Fault]) -> FaultProxy:
        return FaultProxy((str(address.hostname), int(address.port or 0)), choose)

    return make


def error_of(session: Session, rows: int, number: int) -> FarfieldError | None:
    """Of a call that fails, or none of one whose result is right; both in time."""
    x, one = numbered(rows, number)
    begun = time.monotonic()
    try:
        [result] = session.call(COPY, [x, one])
    except FarfieldError as error:
        return error
    else:
        np.testing.assert_array_equal(result, x)
    finally:
        assert time.monotonic() - begun < TIMEOUT_S + SLACK_S
    return None


def check_rest(victim: Server) -> None:
    """Nothing is held, no worker died, and the server met nothing that it did not expect."""
    wait_for(victim.is_idle_and_empty, "an empty arena")
    info = victim.info()
    assert (info["worker_restarts"], info["waiting"]) == (0, 0)
    assert "Traceback" not in victim.log.read_text()


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("fault", BROKEN, ids=describe)
def test_a_broken_connection_is_a_typed_error(
    victim: Server,
    proxy_to: Callable[[Callable[[int], Fault]], FaultProxy],
    fault: Fault,
    rows: int,
    is_soak: bool,
) -> None:
    """Wherever it breaks, and each time; the server gives up what it held while the proxy is still there."""
    with proxy_to(lambda _: fault) as proxy:
        for number in range(CALLS.of(is_soak)):
            with contextlib.closing(Session(Http(proxy.url, None, TIMEOUT_S))) as session:
                error = error_of(session, rows, number)
                assert isinstance(error, ServerError)
        check_rest(victim)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("fault", SLOW, ids=describe)
def test_a_slow_connection_gives_the_right_result(
    victim: Server,
    proxy_to: Callable[[Callable[[int], Fault]], FaultProxy],
    fault: Fault,
    rows: int,
    is_soak: bool,
) -> None:
    """Late, narrow, or ended right after the answer; calls through one session."""
    with proxy_to(lambda _: fault) as proxy, contextlib.closing(Session(Http(proxy.url, None, 30.0))) as session:
        for number in range(2 * CALLS.of(is_soak)):
            x, one = numbered(rows, number)
            np.testing.assert_array_equal(session.call(COPY, [x, one])[0], x)
    check_rest(victim)


def test_calls_go_on_while_connections_break(
    victim: Server, proxy_to: Callable[[Callable[[int], Fault]], FaultProxy], is_soak: bool
) -> None:
    """Two of three connections have some fault: every call ends right or typed, and some are right."""
    faults = [fault for fault in BROKEN if fault.action != "freeze"]

    def choose(number: int) -> Fault:
        return Fault() if number % 3 == 2 else faults[number // 3 * 2 % len(faults) + number % 3]

    errors = []
    with proxy_to(choose) as proxy:
        for number in range(4 * len(faults) * CALLS.of(is_soak)):
            with contextlib.closing(Session(Http(proxy.url, None, TIMEOUT_S))) as session:
                errors += [error_of(session, ROWS[number % 2], number), error_of(session, ROWS[0], number)]
    assert None in errors
    check_rest(victim)


def test_a_trickle_does_not_outlast_the_deadline(
    victim: Server, proxy_to: Callable[[Callable[[int], Fault]], FaultProxy]
) -> None:
    """Bytes that come now and then do not keep a call beyond its time."""
    with (
        proxy_to(lambda _: Fault(direction="answer", bytes_per_s=300)) as proxy,
        contextlib.closing(Session(Http(proxy.url, None, TIMEOUT_S), deadline_s=TIMEOUT_S)) as session,
    ):
        assert isinstance(error_of(session, ROWS[0], 1), DeadlineError)
    check_rest(victim)
