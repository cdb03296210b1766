"""Many clients that send hardly anything: each is given up in time, and a healthy one is served all the while."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np

from faults import slowloris
from faults.count import Count
from serving import GAUSSIAN, gaussian, gaussian_arrays, serving, wait_for

SOCKETS = Count(short=200, long=1000)
SECONDS = Count(short=2, long=30)
LIMIT_S = 1.0  # every time limit of the server
LINGER_S = 2.0  # that a refused sender is heard, see protocol.py
SLACK_S = 4.0  # for a machine that does much else


def test_slow_senders_are_given_up_and_hurt_nobody(tmp_path: Path, is_soak: bool) -> None:
    """Hundreds at a time: none lives for long, and every call of a healthy client is right."""
    sockets = SOCKETS.of(is_soak)
    flags = [f"--{name}-s={LIMIT_S}" for name in ("head-timeout", "receive-timeout", "keep-alive")]
    flags += [f"--{name}={2 * sockets}" for name in ("max-connections", "max-connections-per-address")]
    arrays = gaussian_arrays()
    calls = 0
    with serving(tmp_path, *flags) as server, contextlib.closing(server.session(timeout_s=10)) as session:
        with slowloris.attacking(server, sockets, SECONDS.of(is_soak)) as attack:
            while attack.poll() is None:
                np.testing.assert_allclose(session.call(GAUSSIAN, arrays)[0], gaussian(*arrays), rtol=1e-12)
                calls += 1
            lived = slowloris.lives(attack)
        assert sum(count for count, _ in lived.values()) >= sockets
        assert max(longest_s for _, longest_s in lived.values()) < LIMIT_S + LINGER_S + SLACK_S
        assert calls > 10
        wait_for(server.is_idle_and_empty, "an empty arena")
        assert server.info()["worker_restarts"] == 0
        assert "Traceback" not in server.log.read_text()
