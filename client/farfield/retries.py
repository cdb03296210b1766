"""A failed call -> the pause before it is sent again, or none.

Calls are pure functions, so sending one again is always safe; what is guarded here is the server. Pauses are
random and grow (full jitter), and a session spends no more than one retry on ten calls, so that a server in
trouble does not get four times its load.

Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
"""

from __future__ import annotations

import random

from .errors import ServerError

MOST = 3  # retries of one call
BASE_S = 0.1  # the longest first pause; it doubles with each retry
CAP_S = 5.0
EARNED = 0.1  # retries that a call adds to the budget
FULL = 10.0  # retries that the budget holds

PASSING = frozenset({"connect_error", "bad_gateway", "server_busy", "draining", "no_worker", "quota_exceeded"})
"""Codes of errors that may be gone a moment later."""


class Retries:
    """The retries of one session.

    Without a lock, as one that another thread held at a fork would stay locked in the child for ever: threads that
    meet may cost or win the budget a fraction of a retry.

    Args:
        most: how often one call is sent again.
        base_s: seconds of the longest first pause.
    """

    def __init__(self, most: int = MOST, base_s: float = BASE_S) -> None:
        self.most, self.base_s = most, base_s
        self.budget = FULL

    def earn(self) -> None:
        """A call is made."""
        self.budget = min(FULL, self.budget + EARNED)

    def pause_s(self, error: ServerError, made: int, left_s: float) -> float | None:
        """Seconds to wait before the call is sent again; None: it is not.

        Args:
            error: what the call met; its `retry_after_s` is added to the pause, so that those who were told the
                same second do not all come back in it.
            made: retries of this call so far.
            left_s: seconds that the pause has to fit into.
        """
        if error.code not in PASSING or made >= self.most or self.budget < 1:
            return None
        jitter_s = random.uniform(0, min(CAP_S, self.base_s * 2**made))  # noqa: S311  # no secret
        pause_s = (error.retry_after_s or 0.0) + jitter_s
        if pause_s >= left_s:
            return None
        self.budget -= 1
        return pause_s
