"""What a call through the server costs more than one in process, on loopback, alternating.

    .venv/bin/python benchmarks/service.py

The seed's forward and gradient: medians of `--repeats` calls in process, over TCP and over a Unix socket, in
rounds with fresh servers, as on few cores it matters where the system puts the four processes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from typing import Any

from machine import save
from workloads import by_name

from farfield import Session, connect
from farfield.numpy import Genred

TARGET_MS = 2.0


def start(*flags: str) -> tuple[subprocess.Popen[str], str]:
    """A server of our own and its URL."""
    command = [sys.executable, "-m", "farfield_service.cli", "serve", "--log-level", "error", *flags]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout
    return server, server.stdout.readline().split()[-1]


def calls(session: Session) -> dict[str, Callable[[], Any]]:
    """The two workloads on one session."""
    forward = by_name("seed forward")
    arrays = forward.arrays()
    routine = Genred(forward.formula, list(forward.aliases), axis=1, session=session)
    e = forward.cotangent((len(arrays[0]), 3))
    return {
        "seed forward": lambda: routine(*arrays),
        "seed gradient in y": lambda: routine.vjp(e, *arrays, wrt=[1]),
    }


def compare(local: Callable[[], Any], remote: Callable[[], Any], place: str, repeats: int) -> dict[str, float]:
    """Medians of both in turn, and of what the remote call cost more than the local one before it."""
    times: list[tuple[float, float]] = []
    for turn in range(repeats + 5):
        begin = time.perf_counter()
        local()
        middle = time.perf_counter()
        remote()
        if turn >= 5:  # the first calls compile and connect
            times.append((middle - begin, time.perf_counter() - middle))
    return {
        "in process_ms": median_ms([here for here, _ in times]),
        f"{place}_ms": median_ms([there for _, there in times]),
        f"{place}_more_ms": median_ms([there - here for here, there in times]),
    }


def median_ms(timings: list[float]) -> float:
    """Median in milliseconds."""
    return statistics.median(timings) * 1e3


def measure(folder: str, repeats: int) -> list[dict[str, Any]]:
    """All workloads against two fresh servers."""
    rows = []
    tcp, tcp_url = start("--port", "0")
    unix, unix_url = start("--uds", f"{folder}/socket")
    try:
        with urllib.request.urlopen(f"{tcp_url}/healthz"):
            pass
        places = {"in process": "local:cpu", "http": tcp_url, "http+unix": unix_url}
        ready = {place: calls(connect(url)) for place, url in places.items()}
        for name in ready["in process"]:
            row: dict[str, Any] = {"workload": name}
            for place in ("http", "http+unix"):
                row |= compare(ready["in process"][name], ready[place][name], place, repeats)
            rows.append(row)
            print(
                f"{name:<20} in process {row['in process_ms']:6.2f} ms   "
                f"http {row['http_ms']:6.2f} (+{row['http_more_ms']:.2f})   "
                f"unix {row['http+unix_ms']:6.2f} (+{row['http+unix_more_ms']:.2f})   "
                f"target +{TARGET_MS:g}",
                flush=True,
            )
    finally:
        for server in (tcp, unix):
            server.terminate()
            server.wait()
    return rows


def main() -> int:
    """Time, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200, help="timed calls of each (default: 200)")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of fresh servers (default: 5)")
    parser.add_argument("--no-save", action="store_true", help="print only")
    options = parser.parse_args()
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FARFIELD_CACHE_DIR"] = f"{folder}/cache"
        for _ in range(options.rounds):
            rounds.append(measure(folder, options.repeats))
    more = [row["http_more_ms"] for rows in rounds for row in rows]
    print(
        f"http costs {statistics.median(more):.2f} ms more (median of rounds; {min(more):.2f} to {max(more):.2f})"
    )
    if not options.no_save:
        content = {"repeats": options.repeats, "http_more_ms": statistics.median(more), "rounds": rounds}
        print(f"saved as {save('service', content)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
