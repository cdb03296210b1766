"""Workers that are killed again and again while clients call."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from serving import GAUSSIAN, WAIT_S, Server, gaussian, gaussian_arrays, wait_for

CLIENTS = 4
ROWS = 1500


@dataclass(frozen=True)
class Recovered:
    """What became of a load under which workers were killed.

    Args:
        seconds: until the next worker was ready, per kill.
        answers: that clients received, all of them right.
    """

    seconds: list[float]
    answers: int


def recoveries(server: Server, kills: int) -> Recovered:
    """Kill the worker at random moments under the load of some clients.

    Args:
        server: one that nobody else uses.
        kills: how many.

    Raises:
        AssertionError, FarfieldError: an answer is wrong, or lost.
    """
    cases = [gaussian_arrays(seed, M=ROWS, N=ROWS) for seed in range(CLIENTS)]
    expected = [gaussian(*arrays) for arrays in cases]
    over = threading.Event()
    answered = [0] * CLIENTS

    def calls(client: int) -> None:
        with contextlib.closing(server.session()) as session:
            while not over.is_set():
                [result] = session.call(GAUSSIAN, cases[client])
                np.testing.assert_allclose(result, expected[client], rtol=1e-10)
                answered[client] += 1

    moments, found = random.Random(0), list[float]()
    with ThreadPoolExecutor(CLIENTS) as threads:
        clients = [threads.submit(calls, client) for client in range(CLIENTS)]

        def is_answered(goal: list[int]) -> bool:
            ended = any(client.done() for client in clients)
            return ended or all(count >= enough for count, enough in zip(answered, goal, strict=True))

        try:
            for _ in range(kills):
                # A request is replayed once: the next kill waits until those of the last one are answered.
                goal = [count + 2 for count in answered]
                wait_for(lambda goal=goal: is_answered(goal), "answers")
                time.sleep(moments.uniform(0, 0.02))
                found.append(recovery(server))
        finally:
            over.set()
        for client in clients:
            client.result(WAIT_S)
    return Recovered(found, sum(answered))


def recovery(server: Server) -> float:
    """Kill the worker; seconds until the next one is ready."""
    restarts = server.info()["worker_restarts"]
    os.kill(server.worker_pid(), signal.SIGKILL)
    begun = time.monotonic()

    def is_replaced() -> bool:
        info = server.info()
        return bool(info["worker_restarts"] > restarts and info["is_ready"])

    wait_for(is_replaced, "a new worker")
    return time.monotonic() - begun
