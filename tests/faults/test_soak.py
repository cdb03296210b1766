"""A mixed load for a while leaves a server as it was."""

from __future__ import annotations

from pathlib import Path

from faults.count import Count
from faults.footprint import MiB
from faults.soak import soak
from serving import serving

SECONDS = Count(short=8, long=600)
KILL_EVERY_S = Count(short=1, long=15)
SPECS = Count(short=6, long=60)  # kernels
GROWTH_BYTES = 16 * MiB


def test_a_mixed_load_leaves_nothing_behind(tmp_path: Path, is_soak: bool) -> None:
    """Neither memory nor descriptors nor threads, in server and worker; and every answer on the way is right."""
    with serving(tmp_path) as server:
        found = soak(server, SECONDS.of(is_soak), KILL_EVERY_S.of(is_soak), SPECS.of(is_soak))
        assert found.kills > 0
        assert min(found.done.values()) > found.kills
        assert server.info()["worker_restarts"] == found.kills
        assert "Traceback" not in server.log.read_text()
    for program in ("server", "worker"):
        begin, third, end, rest = (getattr(r, program) for r in (found.begin, found.third, found.end, found.rest))
        assert end.anonymous_bytes < third.anonymous_bytes + GROWTH_BYTES, program
        assert (rest.descriptors, rest.threads) == (begin.descriptors, begin.threads), program
