"""The planner: long formulas are read by another program, for users in turn, and hold up nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from farfield.wire import FRAME
from farfield_kernels.arguments import check_arguments, result_shapes
from farfield_kernels.errors import FormulaError
from farfield_kernels.operation import Spec, outline, read
from farfield_kernels.predict import predict
from farfield_service.errors import DeadlineExceeded, QuotaExceeded, ServerBusy
from farfield_service.planner import MAX_WAITING, MAX_WAITING_PER_USER, Planner, is_brief
from farfield_service.recent import Recent
from farfield_service.settings import Settings
from serving import GAUSSIAN, WAIT_S, Server, frame, gaussian, gaussian_arrays, serving

VARIABLES = ("x = Vi(3)", "y = Vj(3)")


def long(number: int, terms: int = 20, wrt: tuple[tuple[int, ...], ...] = ()) -> Spec:
    """A sum of so many terms, unlike that of any other number."""
    texts = [f"Exp(-SqDist(x,y)*IntCst({number * 1000 + k}))*Sin(x|y)" for k in range(terms)]
    return Spec("+".join(texts), VARIABLES, wrt=wrt)


def planned(check: Callable[[Planner], Coroutine[Any, Any, None]]) -> None:
    """Run a test with a planner of its own."""

    @contextlib.asynccontextmanager
    async def planning() -> AsyncIterator[Planner]:
        planner = Planner(Settings())
        try:
            yield planner
        finally:
            await planner.end()

    async def run() -> None:
        async with planning() as planner:
            await asyncio.wait_for(check(planner), 2 * WAIT_S)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (GAUSSIAN, True),
        (GAUSSIAN.vjp([0]), True),
        (GAUSSIAN.vjp([0]).vjp([0]), True),
        (long(0, terms=5), True),
        (long(0, terms=20), False),
        (Spec("Laplacian(Square(x-y),x)", VARIABLES), False),
        (Spec("x+y", VARIABLES, "SumSoftMaxWeight", formula2="x+y" + "+x" * 400), False),
    ],
)
def test_short_formulas_are_read_at_once(spec: Spec, expected: bool) -> None:
    """By their length, and by names of operators that stand for much more than their name."""
    assert is_brief(spec) is expected


@pytest.mark.parametrize("wrt", [(), ((0, 1),)])
def test_what_the_program_says_is_what_is_read_here(wrt: tuple[tuple[int, ...], ...]) -> None:
    """Arguments, results and their shapes, and the prediction; what was asked before is known."""
    spec = long(1, wrt=wrt)
    operation = read(spec)
    shapes = [slot.shape(7, 5) for slot in operation.arguments]
    sizes = check_arguments(operation, ["float32"] * len(shapes), shapes)

    async def check(planner: Planner) -> None:
        found = await planner.outline("user", spec, None)
        assert found == outline(operation)
        assert check_arguments(found, ["float32"] * len(shapes), shapes) == sizes
        assert result_shapes(found, sizes) == result_shapes(operation, sizes)
        assert await planner.predict("user", spec, sizes, "cpu", None) == predict(spec, sizes, "cpu")
        await planner.end()
        assert await planner.outline("user", spec, None) is found

    planned(check)


def test_a_wrong_formula_is_the_error_that_it_is_here() -> None:
    """With text and place."""
    spec = Spec(long(1).formula + "+Exp(", VARIABLES)
    with pytest.raises(FormulaError) as expected:
        read(spec)

    async def check(planner: Planner) -> None:
        with pytest.raises(FormulaError) as caught:
            await planner.outline("user", spec, None)
        assert (caught.value.message, caught.value.details()) == (expected.value.message, expected.value.details())

    planned(check)


def test_users_are_answered_in_turn_within_their_limits() -> None:
    """Who asks one thing waits for one of another user's; who asks too much is refused, and others are not."""

    async def check(planner: Planner) -> None:
        order: list[str] = []

        async def ask(user: str, number: int) -> None:
            await planner.outline(user, long(number), None)
            order.append(user)

        hog = [asyncio.create_task(ask("hog", number)) for number in range(MAX_WAITING_PER_USER)]
        await asyncio.sleep(0)
        with pytest.raises(QuotaExceeded, match="16 new formulas of this user"):
            await ask("hog", 100)
        light = [asyncio.create_task(ask("light", number)) for number in (101, 102)]
        same = asyncio.create_task(ask("hog", 0))  # is being asked
        await asyncio.gather(*hog, *light, same)
        first = order.index("light")
        assert first <= 3  # after two that were read, one of them for two
        assert order[first : first + 3] == ["light", "hog", "light"]

    planned(check)


def test_too_many_users_are_refused() -> None:
    """So that nobody waits for long."""

    async def check(planner: Planner) -> None:
        tasks = [
            asyncio.create_task(planner.outline(f"user {number}", long(number), None))
            for number in range(MAX_WAITING)
        ]
        await asyncio.sleep(0)
        with pytest.raises(ServerBusy):
            await planner.outline("another", long(1000), None)
        await asyncio.gather(*tasks)

    planned(check)


def test_a_deadline_ends_the_wait_and_the_question() -> None:
    """At once; what nobody waits for is not read."""

    async def check(planner: Planner) -> None:
        await planner.outline("user", long(0), None)
        first = asyncio.create_task(planner.outline("user", long(1, terms=150, wrt=((0, 1),)), None))
        await asyncio.sleep(0)
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await planner.outline("user", long(2), started + 0.001)
        assert time.monotonic() - started < 0.5
        assert planner.asked["user", long(2)].said.cancelled()
        await first
        await planner.outline("user", long(3), None)
        assert (planner.waiting, planner.asked) == (0, {})

    planned(check)


def test_a_program_that_dies_is_replaced() -> None:
    """Who waits sees no more than a delay."""

    async def check(planner: Planner) -> None:
        await planner.outline("user", long(0), None)
        assert planner.program is not None
        planner.program.process.kill()
        assert await planner.outline("user", long(1), None) == outline(read(long(1)))

    planned(check)


def healthy_within(server: Server, arrays: list[np.ndarray]) -> float:
    """Seconds that a look at the server's health and a warm call took together."""
    started = time.monotonic()
    assert server.request("GET", "/healthz").status == 200
    np.testing.assert_allclose(server.call(arrays), gaussian(*arrays), rtol=1e-12)
    return time.monotonic() - started


def test_new_long_formulas_hold_up_nobody(tmp_path: Path) -> None:
    """While twenty of the largest are read, others are answered; those that do not fit are refused."""
    arrays = gaussian_arrays()
    xy = [np.ones((4, 3), "float32"), np.ones((5, 3), "float32")]
    headers = {"Content-Type": FRAME, "X-Farfield-Deadline-Ms": "3000"}

    def ask(number: int) -> int:
        return server.request("POST", "/v1/reduce", frame(long(number, terms=200), xy), headers).status

    with serving(tmp_path) as server, ThreadPoolExecutor(20) as threads:
        server.call(arrays)
        answers = [threads.submit(ask, number) for number in range(20)]
        waits = [healthy_within(server, arrays) for _ in range(20)]
        assert max(waits) < 1.0
        assert {answer.result(WAIT_S) for answer in answers} <= {200, 429, 504}


def test_what_was_used_last_stays_in_a_bounded_memory() -> None:
    """Whoever fills it pushes out what nobody asks for, and not what others use."""
    known: Recent[int, str] = Recent(3)
    known.keep(0, "used")
    for number in range(1, 50):
        known.keep(number, "once")
        assert known.find(0) == "used"
    assert [known.find(number) for number in (47, 48, 49)] == [None, "once", "once"]
    assert len(known.entries) == 3
