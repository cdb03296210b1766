"""Workers that are killed again and again while clients call."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from serving import GAUSSIAN, WAIT_S, gaussian, gaussian_arrays, serving, wait_for

KILLS = 10
CLIENTS = 4
ROWS = 1500


def test_no_answer_is_wrong_or_lost_while_workers_are_killed(tmp_path: Path) -> None:
    """Ten kills at random moments under the load of four clients: every call is answered, and right."""
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

    moments = random.Random(0)
    with serving(tmp_path) as server, ThreadPoolExecutor(CLIENTS) as threads:
        clients = [threads.submit(calls, client) for client in range(CLIENTS)]
        try:
            for kill in range(KILLS):
                # A request is replayed once: the next kill waits until those of the last one are answered.
                goal = [count + 2 for count in answered]
                wait_for(
                    lambda goal=goal: (
                        any(client.done() for client in clients)
                        or all(count >= enough for count, enough in zip(answered, goal, strict=True))
                    ),
                    "answers",
                )
                time.sleep(moments.uniform(0, 0.02))
                os.kill(server.worker_pid(), signal.SIGKILL)
                wait_for(lambda kill=kill: server.info()["worker_restarts"] > kill, "a new worker")
        finally:
            over.set()
        for client in clients:
            client.result(WAIT_S)
        assert server.info()["worker_restarts"] == KILLS
        wait_for(server.is_idle_and_empty, "an empty arena")
