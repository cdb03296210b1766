"""Users beside each other: light ones beside one that has sent hundreds of requests, and two of unequal weight."""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .apart import apart
from .crowd import LEAD_S, Load, Outcome, run
from .figures import Extent, Figure, NotMeasured, percentile
from .program import CLI, SPARE_CORE, Program, running
from .work import lasting

DEVICE_SECONDS = "farfield_user_device_seconds_total"
HOG_REQUESTS, HOG_MS = 300, 200.0
LIGHT_USERS, LIGHT_MS, LIGHT_EVERY_S = 3, 10.0, 0.1
HOG_RATE = 1000.0  # per second: all of them come at once, but for what a machine needs to accept connections
WEIGHTS = {"heavy": 2, "plain": 1}
WEIGHED_MS, WEIGHED_CLIENTS, WEIGHED_S = 20.0, 4, 60.0
RAMP_S = 1.0  # from the first request on, that is not weighed


def measure(extent: Extent) -> Iterator[Figure]:
    """The hog, then the weights."""
    yield from hogged(extent)
    yield from weighed(extent)


@contextlib.contextmanager
def among_users(weights: dict[str, int]) -> Iterator[tuple[Program, dict[str, str]]]:
    """A server with these users, and their keys.

    Raises:
        NotMeasured: this server knows no users.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "keys")
        keys = {}
        for name, weight in weights.items():
            command = [*CLI, "keys", "create", name, "--weight", str(weight), "--file", path]
            made = subprocess.run(command, check=False, capture_output=True, text=True)
            if made.returncode:
                raise NotMeasured(f"'farfield keys create' fails: {made.stderr.strip()[-300:]}")
            keys[name] = made.stdout.strip()
        with running("--keys-file", path, "--max-queue", "1000", **SPARE_CORE) as server:
            yield server, keys


def hogged(extent: Extent) -> Iterator[Figure]:
    """Light users send for as long as the hog's requests wait."""
    lights = [f"light{number}" for number in range(LIGHT_USERS)]
    with among_users(dict.fromkeys(["hog", *lights], 1)) as (server, keys), apart(1) as pool:
        hog = b"".join(lasting(server.url, HOG_MS, keys["hog"]).request(keys["hog"]))
        light = lasting(server.url, LIGHT_MS, keys[lights[0]])
        count = extent.count(HOG_REQUESTS)
        seconds = count * HOG_MS / 1e3 * 0.8
        loads = [Load(hog, count / HOG_RATE, rate=HOG_RATE)]
        for name in lights:
            loads.append(Load(b"".join(light.request(keys[name])), seconds, rate=1 / LIGHT_EVERY_S))
        hogs, *others = pool.submit(run, server.url, loads, time.monotonic() + LEAD_S).result()
        hog_ends = max(outcome.end for outcome in hogs)
        asked = [outcome for outcomes in others for outcome in outcomes if outcome.begin < hog_ends]
        answered = [outcome.seconds for outcome in asked if outcome.is_computed]
        p99 = percentile(answered, 99) if answered else None
        beside = {
            "p50_s": percentile(answered, 50) if answered else None,
            "hog_requests": count,
            "hog_answered": sum(outcome.is_computed for outcome in hogs),
            "hog_seconds": hog_ends - min(outcome.begin for outcome in hogs),
            "light_requests": len(asked),
        }
        name = f"{LIGHT_USERS} light users beside {count} requests of {HOG_MS / 1e3:g} s, p99"
        yield Figure(name, p99, "s", at_most=0.5, beside=beside)
        share = len(answered) / len(asked)
        yield Figure("the light users' requests that are computed", share, "", at_least=1)


def weighed(extent: Extent) -> Iterator[Figure]:
    """Both users always have work."""
    with among_users(WEIGHTS) as (server, keys), apart(1) as pool:
        work = lasting(server.url, WEIGHED_MS, keys["plain"])
        seconds = extent.seconds(WEIGHED_S)
        requests = {name: b"".join(work.request(key)) for name, key in keys.items()}
        loads = [Load(request, seconds, clients=WEIGHED_CLIENTS) for request in requests.values()]
        start_at = time.monotonic() + LEAD_S
        future = pool.submit(run, server.url, loads, start_at)
        marks = []
        for moment in (start_at + RAMP_S, start_at + seconds - RAMP_S):
            time.sleep(max(0.0, moment - time.monotonic()))
            marks.append(device_seconds(server, keys["plain"]))
        found = dict(zip(WEIGHTS, future.result(), strict=True))
        is_told = set(marks[0]) >= set(WEIGHTS)
        answers = kernel_seconds(found, start_at + RAMP_S, start_at + seconds - RAMP_S)
        used = {name: marks[1][name] - marks[0][name] for name in WEIGHTS} if is_told else answers
        ratio = used["heavy"] / used["plain"] / WEIGHTS["heavy"]
        source = "metrics" if is_told else "answers"
        beside = {"device_seconds": used, "by_answers": answers, "source": source}
        off = 100 * abs(ratio - 1)
        yield Figure("weights 2 and 1, device time off 2:1 by", off, "%", at_most=5, beside=beside)


def device_seconds(server: Program, key: str) -> dict[str, float]:
    """Per user, as the server counts them."""
    found = server.metric(DEVICE_SECONDS, key)
    return {match[1]: value for labels, value in found.items() if (match := re.search(r'user="(.*?)"', labels))}


def kernel_seconds(found: dict[str, list[Outcome]], begin: float, end: float) -> dict[str, float]:
    """Per user, what the answers of that time say."""
    return {
        name: sum(outcome.busy_ms for outcome in outcomes if begin <= outcome.end <= end) / 1e3
        for name, outcomes in found.items()
    }
