"""Launches + measured times -> parts: how many units to compute at a time, and when to let the caller in between.

The first part of a launch is so small that it surely ends soon, or a `GROWTH`-th of what the same launch did in
such a time when it was run before; the next ones follow the rate that was measured, and are at most `GROWTH` times
as much. So a short call that is made again is one part; each part wakes the threads and waits for the last one.
The caller is let in when about `part_s` have passed since it last was, if what is left does not fit into them.
"""

from __future__ import annotations

import time

from .launch import ROUNDING, Launch

FIRST_RATE = 2.0**26  # scalar operations per second: NumPy on one slow core makes more of the dearest of them
GROWTH = 8  # of one part to the next: the rate of the first ones, which wake threads and fill caches, is too low


class Pace:
    """The parts of one call.

    Args:
        part_s: seconds between two stops.
        steps: scalar operations of all its launches.
    """

    def __init__(self, part_s: float, steps: float) -> None:
        self.part_s, self.steps, self.done = part_s, steps, 0.0
        self.resumed = self.begun = time.perf_counter()
        self.next_steps = 0.0

    @property
    def fraction(self) -> float:
        """How much of the work is done."""
        return self.done / self.steps

    def end(self, launch: Launch, first: int) -> int:
        """The end of the part that begins with a unit."""
        if first == 0:
            first_rate = max(FIRST_RATE, launch.last_rate / GROWTH)
            self.next_steps, self.begun = first_rate * self.part_s, time.perf_counter()
        return launch.end(first, self.next_steps)

    def is_due(self, launch: Launch, first: int, end: int) -> bool:
        """Whether to let the caller in, now that these units are done."""
        now = time.perf_counter()
        steps = launch.reached(end) - launch.reached(first)
        self.done += steps
        rate = max(1.0, steps) / max(1e-9, now - self.begun)
        left_s = self.part_s - (now - self.resumed)
        if steps and end == launch.units:
            launch.last_rate = rate
        if not steps or self.steps - self.done <= max(rate * left_s, ROUNDING * self.steps):
            is_due = False
        elif left_s < self.part_s / 2:
            is_due = True
        else:
            following = launch.end(end, min(rate * left_s, GROWTH * steps))
            is_due = launch.reached(following) - launch.reached(end) > rate * left_s
        self.begun, self.next_steps = now, min(rate * (self.part_s if is_due else left_s), GROWTH * steps)
        return is_due

    def resume(self) -> None:
        """Go on after a stop."""
        self.resumed = self.begun = time.perf_counter()
