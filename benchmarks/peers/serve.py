"""One peer, driven by driver.py: run by the peers' Python, reads a workload's name per line, answers with JSON.

    python -m peers.serve PEER FOLDER

An answer is {"wall_ms", "cpu_ms"} of one call; the first one of a workload also has {"first_call_s", "result"},
where `result` is the path of an .npy file in FOLDER with the values of the first result. It is {"absent": true}
where the peer does not apply, and {"failed": REASON} where it raised.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import drawn
import numpy as np
import workloads

from peers import Compute, Peer, by_name

MEMORY_BYTES = 12 << 30  # beyond which a peer gets an error instead of the machine's memory


def find(name: str) -> workloads.Workload:
    """A listed workload, or a drawn one."""
    return drawn.by_name(name) if name.startswith(drawn.PREFIX) else workloads.by_name(name)


def values_of(result: Any) -> np.ndarray[Any, Any]:
    """The first result, of torch or JAX."""
    first = result[0] if isinstance(result, tuple | list) else result
    return np.asarray(first.detach() if hasattr(first, "detach") else first)


def begin(peer: Peer, name: str, folder: Path) -> tuple[Compute | None, dict[str, Any]]:
    """Compile, compute, and keep the result."""
    start = time.perf_counter()
    try:
        compute = peer.prepare(find(name))
        if compute is None:
            return None, {"absent": True}
        values = values_of(compute())
    except Exception as error:  # whatever it raises is its answer
        text = " ".join(str(error).split())
        return None, {"failed": f"{type(error).__name__}: {text}"[:300]}
    first_call_s = time.perf_counter() - start
    path = folder / f"{peer.name.replace(' ', '_')}.npy"
    np.save(path, values)
    return compute, {"first_call_s": first_call_s, "result": str(path)}


def main() -> None:
    """Serve until standard input ends. Nothing of the last workload is kept when another begins."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the peer prints must not mix with the answers
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    peer, folder = by_name(sys.argv[1]), Path(sys.argv[2])
    current, compute = "", None
    for line in sys.stdin:
        answer: dict[str, Any] = {}
        if line.strip() != current:
            current, compute = line.strip(), None
            compute, answer = begin(peer, current, folder)
        if compute:
            wall, cpu = time.perf_counter(), time.process_time()
            compute()
            answer["wall_ms"] = (time.perf_counter() - wall) * 1e3
            answer["cpu_ms"] = (time.process_time() - cpu) * 1e3
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
