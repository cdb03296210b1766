"""A coroutine that is begun at once, and goes on as soon as what it waits for is there.

A task takes a turn of the event loop for its first step and for each step after a wait. A small request is one
step until a worker has it, and one more when the worker has answered: each turn is felt, above all after a rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")


class Promise(asyncio.Future[T]):
    """A future whose result lets a prompt coroutine go on before `set_result` returns; a task, as any future does.

    So `set_result` is the last thing that its caller does. Errors take a turn of the loop.
    """

    go_on: Callable[[], None] | None = None

    def set_result(self, result: T) -> None:
        """Keep the result, and have who waits go on."""
        super().set_result(result)
        go_on, self.go_on = self.go_on, None  # what is done with leaves no cycle for the garbage collector
        if go_on:
            go_on()

    def set_exception(self, exception: type[BaseException] | BaseException) -> None:
        """Keep the error, and have who waits go on in the next turn."""
        super().set_exception(exception)
        go_on, self.go_on = self.go_on, None
        if go_on:
            self.get_loop().call_soon(go_on)


class Prompt:
    """A coroutine on its way, in a context of its own; it must not ask for the task that it runs in.

    Args:
        coroutine: which `step` runs up to its first wait. It goes on promptly after it waited for a `Promise`, and
            as a task after any other wait.
        loop: for that task.
        on_task: called with it.
    """

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, None],
        loop: asyncio.AbstractEventLoop,
        on_task: Callable[[asyncio.Task[None]], None],
    ) -> None:
        self.coroutine, self.loop, self.on_task = coroutine, loop, on_task
        self.context = copy_context()

    def step(self) -> None:
        """Run it up to its next wait, or to its end."""
        try:
            awaited = self.context.run(self.coroutine.send, None)
        except StopIteration:
            return
        if isinstance(awaited, Promise):
            awaited._asyncio_future_blocking = False
            awaited.go_on = self.step
        else:
            self.on_task(self.loop.create_task(_rest(self.coroutine, awaited), context=self.context))


async def _rest(coroutine: Coroutine[Any, Any, None], awaited: Any) -> None:
    await _Rest(coroutine, awaited)


class _Rest:
    """What is left of a coroutine that waits."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], awaited: Any) -> None:
        self.coroutine, self.awaited = coroutine, awaited

    def __await__(self) -> Generator[Any, None, None]:
        while True:
            error: BaseException | None = None
            try:
                yield self.awaited
            except BaseException as raised:
                error = raised
            try:
                self.awaited = self.coroutine.throw(error) if error else self.coroutine.send(None)
            except StopIteration:
                return
