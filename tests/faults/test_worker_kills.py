"""Workers that are killed again and again while clients call: nobody notices, but for the time."""

from __future__ import annotations

from pathlib import Path

from faults.count import Count
from faults.kills import recoveries
from serving import serving, wait_for

KILLS = Count(short=10, long=100)
READY_S = 5.0


def test_no_answer_is_wrong_or_lost_while_workers_are_killed(tmp_path: Path, is_soak: bool) -> None:
    """Kills at random moments under the load of four clients: every call is answered, and right, and a new worker
    is ready in time."""
    kills = KILLS.of(is_soak)
    with serving(tmp_path) as server:
        assert max(recoveries(server, kills).seconds) < READY_S
        assert server.info()["worker_restarts"] == kills
        wait_for(server.is_idle_and_empty, "an empty arena")


def test_a_worker_that_dies_while_idle_is_replaced_before_the_next_request(tmp_path: Path) -> None:
    """Or /readyz would refuse the requests that would bring a new one."""
    with serving(tmp_path) as server:
        server.kill_worker()
        wait_for(lambda: not server.info()["is_ready"], "word of its death")
        wait_for(lambda: server.info()["is_ready"], "a new worker", READY_S)
