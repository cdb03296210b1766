"""Long formulas that were not met before -> what they take and give, and their work, found by another program.

Reading a formula of the largest size and planning its kernels takes up to a second, in which the event loop would
answer nobody; a thread would hold it up nearly as long. Short ones are read at once. The program is started when
it is first needed, and reads one formula at a time, users in turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import msgspec

from farfield_kernels.arguments import Sizes
from farfield_kernels.errors import FarfieldError
from farfield_kernels.operation import Outline, Spec
from farfield_kernels.predict import Prediction
from farfield_kernels.schedule import Device

from .errors import DeadlineExceeded, JobTimeout, NoWorker, QuotaExceeded, ServerBusy, WorkerDied, rebuilt
from .program import Gone, Program
from .recent import Recent
from .settings import Settings

BRIEF = 500  # characters, times one and two per order of derivative, that are read in less than 2 ms
EXPANDING = ("Grad", "Diff", "Divergence", "Laplacian", "Operator", "Kron", "TensorDot", "SoftDTW", "BSpline")
MAX_WAITING, MAX_WAITING_PER_USER = 64, 16  # questions
LIMIT_S = 20.0  # for one question: a second or so is the most that was seen
ATTEMPTS = 2
OUTLINES = 1024  # kept


@dataclass(eq=False)
class Question:
    """One that waits for its answer, and how many wait with it."""

    key: Hashable
    message: dict[str, Any]
    said: asyncio.Future[dict[str, Any]]
    waiters: int = 0


def is_brief(spec: Spec) -> bool:
    """Whether it is read in less time than it takes to ask another program."""
    texts = (spec.formula, spec.formula2 or "", *spec.variables)
    if sum(map(len, texts)) * (1 + 2 * len(spec.wrt)) > BRIEF * (1 + 2 * bool(spec.wrt)):
        return False
    return not any(name in text for text in texts for name in EXPANDING)


class Planner:
    """The program, and who waits for it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.outlines: Recent[Spec, Outline] = Recent(OUTLINES)
        self.lines: OrderedDict[str, deque[Question]] = OrderedDict()  # by user: the first comes next
        self.asked: dict[Hashable, Question] = {}  # and not answered yet
        self.waiting = 0
        self.program: Program | None = None
        self.work: asyncio.Task[None] | None = None

    async def outline(self, user: str, spec: Spec, deadline: float | None) -> Outline:
        """What a call takes and gives.

        Args:
            user: who asks.
            spec: read by the program if it was not lately.
            deadline: on the monotonic clock.

        Raises:
            FormulaError, ArgumentError, LimitError: as `read` does.
            QuotaExceeded, ServerBusy: too much of this user's or of all waits to be read.
            DeadlineExceeded, JobTimeout, NoWorker, WorkerDied: it was not read.
        """
        found = self.outlines.find(spec)
        if found is None:
            question = {"op": "outline", "spec": spec.changed()}
            answer = await self._ask(user, (user, spec), question, deadline)
            found = msgspec.convert(answer["outline"], Outline)
            self.outlines.keep(spec, found)
        return found

    async def predict(
        self, user: str, spec: Spec, sizes: Sizes, device: Device, deadline: float | None
    ) -> Prediction:
        """The work and the memory of a call; raises as `outline` does."""
        question = {"op": "predict", "spec": spec.changed(), "sizes": sizes, "device": device}
        answer = await self._ask(user, (user, spec, sizes), question, deadline)
        return msgspec.convert(answer["prediction"], Prediction)

    async def _ask(
        self, user: str, key: Hashable, message: dict[str, Any], deadline: float | None
    ) -> dict[str, Any]:
        """The answer, for which those who ask the same wait together."""
        question = self.asked.get(key)
        if question is None or question.said.done():
            question = self.asked[key] = self._line_up(
                user, Question(key, message, asyncio.get_running_loop().create_future())
            )
        question.waiters += 1
        try:
            await asyncio.wait([question.said], timeout=None if deadline is None else deadline - time.monotonic())
            if not question.said.done():
                raise DeadlineExceeded("the deadline passed while the formula was waiting to be read")
        finally:
            question.waiters -= 1
            if question.waiters == 0:
                question.said.cancel()
        answer = question.said.result()
        if "error" in answer:
            raise rebuilt(answer["error"])
        return answer

    def _line_up(self, user: str, question: Question) -> Question:
        line = self.lines.get(user, ())
        if len(line) >= MAX_WAITING_PER_USER:
            raise QuotaExceeded(
                f"{len(line)} new formulas of this user are waiting to be read", limit=MAX_WAITING_PER_USER
            )
        if self.waiting >= MAX_WAITING:
            raise ServerBusy(f"{self.waiting} new formulas are waiting to be read", limit=MAX_WAITING)
        self.lines.setdefault(user, deque()).append(question)
        self.waiting += 1
        if self.work is None or self.work.done():
            self.work = asyncio.create_task(self._work(), name="farfield planner")
        return question

    async def _work(self) -> None:
        """Answer one question of each user in turn, until there is none."""
        while self.lines:
            user, line = self.lines.popitem(last=False)
            question = line.popleft()
            self.waiting -= 1
            if line:
                self.lines[user] = line
            said = question.said
            if not said.done():  # or nobody waits for it
                try:
                    answer = await self._answer(question.message)
                    if not said.done():
                        said.set_result(answer)
                except FarfieldError as error:
                    if not said.done():
                        said.set_exception(error)
            if self.asked.get(question.key) is question:
                del self.asked[question.key]

    async def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        for _ in range(ATTEMPTS):
            program = await self._started()
            try:
                return await program.ask(message, LIMIT_S)
            except Gone:
                self._end()
            except TimeoutError:
                self._end()
                raise JobTimeout(f"reading the formula took longer than this server's {LIMIT_S:g} s") from None
        raise WorkerDied(f"the program that reads formulas died {ATTEMPTS} times under this one")

    async def _started(self) -> Program:
        if self.program is None:
            words = {"parent": os.getpid(), **self.settings.model_dump(include={"log_format", "log_level"})}
            limit_s = self.settings.worker_start_timeout_s
            try:
                self.program = await Program.launch("planning", [], words, limit_s, lambda _: None, lambda: None)
            except (Gone, TimeoutError, OSError) as error:
                raise NoWorker(f"the program that reads formulas did not start: {error}") from error
        return self.program

    def _end(self) -> None:
        if self.program:
            self.program.kill()
            self.program = None

    async def end(self) -> None:
        """Stop; nobody waits any more."""
        if self.work:
            self.work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.work
        self._end()
