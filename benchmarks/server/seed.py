"""The seed's forward and gradient through a server, against in process, call by call in turn.

In rounds with fresh servers, as on few cores it matters where the system puts the four processes; and with pauses,
in which the threads of the last call come to rest: nobody who computes through a server has them beside it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from workloads import by_name

from farfield import Session, connect
from farfield.numpy import Genred

from .figures import Extent, Figure, median
from .program import running

ROUNDS = 5
CALLS = 500  # of each in all rounds
PAUSE_S = 0.02
WARMING = 5
PLACES = {"http": (), "http+unix": ("--uds",)}

Pair = tuple[float, float]  # milliseconds in process and through the server


def measure(extent: Extent) -> Iterator[Figure]:
    """All rounds, then what they have in common."""
    pairs: dict[tuple[str, str], list[list[Pair]]] = {}
    for _ in range(ROUNDS):
        for place in PLACES:
            for name, found in round_of(place, -(-extent.calls(CALLS) // ROUNDS)).items():
                pairs.setdefault((name, place), []).append(found)
    for (name, place), rounds in pairs.items():
        local, remote = zip(*(pair for found in rounds for pair in found), strict=True)
        beside = {
            "calls": len(local),
            "in_process_ms": median(local),
            "server_ms": median(remote),
            "rounds_more_ms": [median([there - here for here, there in found]) for found in rounds],
        }
        more = median(remote) - median(local)
        target = 1.0 if name == "seed forward" else None
        yield Figure(f"{name} over {place}, p50 more than in process", more, "ms", at_most=target, beside=beside)


def round_of(place: str, calls: int) -> dict[str, list[Pair]]:
    """Both workloads against a fresh server."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [*PLACES[place], *(f"{folder}/socket" for _ in PLACES[place])]
        with running(*flags) as server, connect("local:cpu") as here, connect(server.url) as there:
            local, remote = routines(here), routines(there)
            return {name: in_turn(local[name], remote[name], calls) for name in local}


def routines(session: Session) -> dict[str, Callable[[], Any]]:
    """The two workloads on one session."""
    forward = by_name("seed forward")
    arrays = forward.arrays()
    routine = Genred(forward.formula, list(forward.aliases), axis=1, session=session)
    e = forward.cotangent((len(arrays[0]), 3))
    return {
        "seed forward": lambda: routine(*arrays),
        "seed gradient in y": lambda: routine.vjp(e, *arrays, wrt=[1]),
    }


def in_turn(local: Callable[[], Any], remote: Callable[[], Any], calls: int) -> list[Pair]:
    """The first calls compile and connect, and are not counted."""
    return [(wall_ms(local), wall_ms(remote)) for _ in range(calls + WARMING)][WARMING:]


def wall_ms(call: Callable[[], Any]) -> float:
    """Of one call."""
    time.sleep(PAUSE_S)
    begin = time.perf_counter()
    call()
    return (time.perf_counter() - begin) * 1e3
