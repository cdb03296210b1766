"""How the server fares under faults, each figure beside what it is to be.

    PYTHONPATH=tests .venv/bin/python benchmarks/fault_figures.py [--short]

The faults are those of tests/faults, in the long forms of its tests: slow senders, killed workers, hostile bodies,
and a mixed load. Each section is saved when it is done. A figure that misses its yardstick ends the run with
status 1.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from machine import save_section

from faults import slowloris, test_garbage, test_slowloris, test_soak, test_worker_kills
from faults.count import Count
from faults.hostile import BODIES, growth
from faults.kills import recoveries
from faults.soak import soak
from serving import GAUSSIAN, Server, gaussian_arrays, serving

SECTIONS = ("slow senders", "killed workers", "hostile bodies", "soak")
ROUNDS = Count(short=1, long=5)  # with slow senders and without, in turn
SECONDS = Count(short=3, long=30)  # of each
SLOWER = 2.0  # times: the healthy client's p99 beside slow senders, at most

Found = dict[str, Any]


def judged(figure: float, below: float) -> Found:
    """A figure and its yardstick."""
    return {"figure": figure, "below": below, "is_met": figure < below}


def slow_senders(is_long: bool) -> Found:
    """The p99 of a healthy client's calls, alone and beside slow senders; time limits are the defaults."""
    sockets, seconds = test_slowloris.SOCKETS.of(is_long), SECONDS.of(is_long)
    flags = [f"--{name}={2 * sockets}" for name in ("max-connections", "max-connections-per-address")]
    alone, beside, lived = list[float](), list[float](), list[tuple[int, float]]()
    with server(*flags) as running:
        for _ in range(ROUNDS.of(is_long)):
            alone += latencies_ms(running, seconds)
            with slowloris.attacking(running, sockets, seconds + 1) as attack:
                beside += latencies_ms(running, seconds)
                lived += slowloris.lives(attack).values()
    before, after = p99(alone), p99(beside)
    return {
        "sockets": sockets,
        "given_up": sum(count for count, _ in lived),
        "longest_life_s": max(longest_s for _, longest_s in lived),
        "alone_ms": {"calls": len(alone), "median": statistics.median(alone), "p99": before},
        "beside_ms": {"calls": len(beside), "median": statistics.median(beside), "p99": after},
        "p99_times_as_long": judged(after / before, SLOWER),
    }


def latencies_ms(running: Server, seconds: float) -> list[float]:
    """Of small calls, one after the other, for so long."""
    arrays, found = gaussian_arrays(), list[float]()
    with contextlib.closing(running.session(timeout_s=60)) as session:
        for _ in range(20):  # the first calls compile and connect
            session.call(GAUSSIAN, arrays)
        end = time.perf_counter() + seconds
        while (begun := time.perf_counter()) < end:
            session.call(GAUSSIAN, arrays)
            found.append((time.perf_counter() - begun) * 1e3)
    return found


def p99(values: list[float]) -> float:
    """What one of a hundred exceeds."""
    return statistics.quantiles(values, n=100)[-1]


def killed_workers(is_long: bool) -> Found:
    """Seconds until a new worker is ready, under load; a wrong or lost answer ends the run."""
    with server() as running:
        found = recoveries(running, test_worker_kills.KILLS.of(is_long))
    return {
        "kills": len(found.seconds),
        "answers": found.answers,
        "wrong_or_lost": 0,  # the first would have ended the run
        "median_s": statistics.median(found.seconds),
        "worst_s": judged(max(found.seconds), test_worker_kills.READY_S),
    }


def hostile_bodies(_: bool) -> Found:
    """Bytes by which the server grows, per body."""
    bodies: Found = {}
    with server() as running:
        for name, (kind, make) in BODIES.items():
            body = make()
            found = growth(running, kind, body)
            assert found.statuses <= {200, 400, 413, 422}, (name, found)
            bodies[name] = {"body_bytes": len(body), "growth_bytes": found.bytes}
    worst = max(body["growth_bytes"] for body in bodies.values())
    return {"bodies": bodies, "worst_growth_bytes": judged(worst, test_garbage.GROWTH_BYTES)}


def mixed_load(is_long: bool) -> Found:
    """Memory, descriptors and threads at the start, after a third, at the end, and when all clients have gone."""
    seconds = test_soak.SECONDS.of(is_long)
    with server() as running:
        found = soak(running, seconds, test_soak.KILL_EVERY_S.of(is_long), test_soak.SPECS.of(is_long))
    content: Found = {"seconds": seconds, **asdict(found)}
    for program in ("server", "worker"):
        begin, third, end, rest = (getattr(r, program) for r in (found.begin, found.third, found.end, found.rest))
        grown = end.anonymous_bytes - third.anonymous_bytes
        content[f"{program}_growth_bytes"] = judged(grown, test_soak.GROWTH_BYTES)
        content[f"{program}_descriptors_more"] = judged(rest.descriptors - begin.descriptors, 1)
        content[f"{program}_threads_more"] = judged(rest.threads - begin.threads, 1)
    return content


def judgements(found: Found) -> dict[str, Found]:
    """Those figures of a section that have a yardstick."""
    return {name: figure for name, figure in found.items() if isinstance(figure, dict) and "is_met" in figure}


MEASURES: dict[str, Callable[[bool], Found]] = dict(
    zip(SECTIONS, (slow_senders, killed_workers, hostile_bodies, mixed_load), strict=True)
)


@contextlib.contextmanager
def server(*flags: str) -> Iterator[Server]:
    """A server of our own, with kernels of its own."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FARFIELD_CACHE_DIR"] = f"{folder}/cache"
        with serving(Path(folder), *flags) as running:
            yield running


def main() -> int:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="the short forms, for a minute; not saved")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="which, comma separated (default: all)")
    parser.add_argument("--no-save", action="store_true", help="print only")
    options = parser.parse_args()
    is_met = True
    for section in options.sections.split(","):
        found = MEASURES[section](not options.short)
        for name, figure in judgements(found).items():
            verdict = f"below {figure['below']:g}" + ("" if figure["is_met"] else "   MISSED")
            print(f"{section:<15} {name:<25} {figure['figure']:>12.6g}   {verdict}", flush=True)
            is_met &= figure["is_met"]
        if not options.short and not options.no_save:
            print(f"saved in {save_section('faults', section, found, SECTIONS)}", flush=True)
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
