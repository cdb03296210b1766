"""Coroutines that are begun at once: what goes on without a turn of the loop, and what becomes a task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest

from farfield_service.prompt import Promise, Prompt

said: ContextVar[str] = ContextVar("said", default="nothing")


class Scene:
    """Runs a prompt coroutine and keeps the tasks that it becomes."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []
        self.steps: list[object] = []

    def begin(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Up to its first wait."""
        Prompt(coroutine, asyncio.get_running_loop(), self.tasks.append).step()


def run(scene: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    """On a loop of its own."""
    asyncio.run(scene(Scene()))


def test_what_does_not_wait_is_done_at_once_in_its_own_context() -> None:
    """A variable that it sets stays its own."""

    async def scene(at: Scene) -> None:
        async def work() -> None:
            said.set("work")
            at.steps.append(said.get())

        at.begin(work())
        assert (at.steps, at.tasks, said.get()) == (["work"], [], "nothing")

    run(scene)


def test_a_promise_that_is_kept_goes_on_before_its_maker_does() -> None:
    """Twice in a row, without a task, in the context of before."""

    async def scene(at: Scene) -> None:
        promises: list[Promise[int]] = [Promise(), Promise()]

        async def work() -> None:
            said.set("work")
            for promise in promises:
                at.steps.append((await promise, said.get()))

        at.begin(work())
        promises[0].set_result(1)
        assert at.steps == [(1, "work")]
        promises[1].set_result(2)
        assert (at.steps, at.tasks) == ([(1, "work"), (2, "work")], [])

    run(scene)


def test_a_broken_promise_is_told_in_the_next_turn() -> None:
    """Not while who breaks it is in the middle of something."""

    async def scene(at: Scene) -> None:
        promise: Promise[int] = Promise()

        async def work() -> None:
            try:
                await promise
            except ValueError as error:
                at.steps.append(str(error))

        at.begin(work())
        promise.set_exception(ValueError("broken"))
        assert at.steps == []
        await asyncio.sleep(0)
        assert (at.steps, at.tasks) == (["broken"], [])

    run(scene)


@pytest.mark.parametrize("outcome", ["result", "error", "cancelled"])
def test_any_other_wait_makes_it_a_task(outcome: str) -> None:
    """Which gets the result or the error, can be cancelled, and waits for more, promises too."""

    async def scene(at: Scene) -> None:
        future, promise = asyncio.get_running_loop().create_future(), Promise[int]()

        async def work() -> None:
            try:
                at.steps.append(await future)
            except ValueError as error:
                at.steps.append(str(error))
            except asyncio.CancelledError:
                at.steps.append("cancelled")
                raise
            await asyncio.sleep(0)
            at.steps.append(await promise)

        at.begin(work())
        (task,) = at.tasks
        if outcome == "cancelled":
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert at.steps == ["cancelled"]
            return
        if outcome == "error":
            future.set_exception(ValueError("error"))
        else:
            future.set_result("result")
        promise.set_result(7)
        await task
        assert at.steps == [outcome, 7]

    run(scene)
