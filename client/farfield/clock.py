"""A call's allowance of time -> the time of each step, and an account of what it went to."""

from __future__ import annotations

import math
import socket
import time

from .errors import DeadlineError

ROUNDING_S = 0.01  # a socket may wake this much before its time


class Clock:
    """The time of one call, its retries included.

    Args:
        timeout_s: seconds that one step, such as a read, may take.
        deadline: the `time.monotonic()` at which the whole call is given up; None: never.
    """

    def __init__(self, timeout_s: float, deadline: float | None) -> None:
        self.timeout_s = timeout_s
        self.deadline = math.inf if deadline is None else deadline
        self.spent: dict[str, float] = {}
        self.phase = "connecting"
        self.since = time.monotonic()

    def enter(self, phase: str) -> None:
        """Time counts for `phase` from now on: connecting, sending, waiting, receiving or pausing."""
        now = time.monotonic()
        self.spent[self.phase] = self.spent.get(self.phase, 0.0) + now - self.since
        self.phase, self.since = phase, now

    def left_s(self) -> float:
        """Seconds until the deadline; infinite without one."""
        return self.deadline - time.monotonic()

    def step_s(self) -> float:
        """Seconds that the next step may take.

        Raises:
            TimeoutError: the deadline has passed.
        """
        left_s = self.left_s()
        if left_s <= 0:
            raise TimeoutError
        return min(self.timeout_s, left_s)

    def limit(self, sock: socket.socket, most_s: float = math.inf) -> None:
        """Let the next step of a socket take no longer; a system call only if that changes."""
        step_s = min(self.step_s(), most_s)
        if sock.gettimeout() != step_s:
            sock.settimeout(step_s)

    def expired(self, url: str) -> DeadlineError:
        """The error of a step that took too long."""
        self.enter("over")
        account = ", ".join(f"{phase} {seconds:.3f} s" for phase, seconds in self.spent.items())
        if self.left_s() > ROUNDING_S:
            return DeadlineError(f"{url} did not answer within {self.timeout_s:g} s ({account})", spent=self.spent)
        return DeadlineError(
            f"{url} did not answer before the call's deadline ({account})",
            code="deadline_exceeded",
            spent=self.spent,
        )
