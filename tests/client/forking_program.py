"""Calls, forks, and calls on both sides with the session of before; run by test_transport."""

from __future__ import annotations

import os
import sys
import threading

import numpy as np

import farfield
from farfield.numpy import Genred

CALLS = 20


def main() -> int:
    """0 if parent and child got right results."""
    routine = Genred("x*y", ["x = Vi(1)", "y = Vj(1)"], axis=1)

    def check() -> None:
        for number in range(CALLS):
            x, y = np.full((3, 1), float(number + os.getpid() % 7)), np.arange(4.0)[:, None]
            np.testing.assert_array_equal(routine(x, y), 6 * x)

    threads = [threading.Thread(target=check) for _ in range(4)]  # leave several idle connections
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    child = os.fork()
    check()
    if child == 0:
        os.write(1, b"child\n")  # one write each: two processes share the pipe
        os._exit(0)
    os.write(1, b"parent\n")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    with farfield.connect():
        sys.exit(main())
