"""What a first call costs: the C++ compiler's CPU time per kernel, and a start from kernels that are on disk.

As a program it is what a fresh process does for the warm start.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from farfield.numpy import Genred
from farfield_kernels.build import loaded_count
from farfield_kernels.expr import Operator
from farfield_kernels.operators import named_operators
from farfield_kernels.operators.differential import Differential

ROWS = 64
STARTS = 7  # processes
ALL_IMPORTED, CLIENT_IMPORTED = "all modules imported", "the client imported"
WAYS = {ALL_IMPORTED: "local:cpu", CLIENT_IMPORTED: "local:"}
"""Of a warm start. The client imports the engine with the first call, and looks for a GPU if it may use one."""


def formula(name: str, operator: Operator) -> tuple[str, list[str]]:
    """The first case that the operator's tests cover, computed for every pair: text and aliases."""
    case = operator.cases[0]
    numbers = [f"[{', '.join(map(str, n))}]" if isinstance(n, tuple) else str(n) for n in case.integers]
    words = [f"v{place}" for place in range(len(case.dims))]
    aliases = [f"v{place} = {'Vj' if place else 'Vi'}({dim})" for place, dim in enumerate(case.dims)]
    return f"{name}({', '.join([*words, *numbers])})*y", [*aliases, "y = Vj(1)"]


def compile_one(name: str, operator: Operator) -> dict[str, Any] | None:
    """CPU seconds of the compiler, which is a child of ours, and of what comes before it; None if it was built."""
    rng = np.random.default_rng(0)
    text, aliases = formula(name, operator)
    drawn = [operator.domain_of(k).sample(rng, (ROWS, dim)) for k, dim in enumerate(operator.cases[0].dims)]
    arrays = [array.astype("float32") for array in (*drawn, rng.random((ROWS, 1)))]
    kernels, children, own = loaded_count(), _children_cpu_s(), time.process_time()
    Genred(text, aliases, axis=1, separation="off")(*arrays)
    built = loaded_count() - kernels
    if not built:
        return None
    return {
        "operator": name,
        "kernels": built,
        "compiler_cpu_s": (_children_cpu_s() - children) / built,
        "own_cpu_s": (time.process_time() - own) / built,
    }


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def compiling(only: str = "") -> Iterator[dict[str, Any]]:
    """One kernel per operator, none of them on disk. Derivatives within formulas have no code of their own."""
    kept = os.environ.get("FARFIELD_CACHE_DIR")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FARFIELD_CACHE_DIR"] = folder
        try:
            found = [
                row
                for name, operator in sorted(named_operators().items())
                if operator.cases and not isinstance(operator, Differential) and only in name
                if (row := compile_one(name, operator))
            ]
        finally:
            os.environ.pop("FARFIELD_CACHE_DIR")
            if kept is not None:
                os.environ["FARFIELD_CACHE_DIR"] = kept
    if not found:
        return
    seconds = {row["operator"]: row["compiler_cpu_s"] for row in found}
    longest = max(seconds, key=seconds.__getitem__)
    yield {
        "what": "compiling",
        "operators": len(found),
        "compiler_cpu_s_median": statistics.median(seconds.values()),
        "compiler_cpu_s_most": seconds[longest],
        "most_at": longest,
        "own_cpu_s_median": statistics.median(row["own_cpu_s"] for row in found),
    }
    if not only:
        yield from warm_start()


def warm_start() -> Iterator[dict[str, Any]]:
    """Medians over new processes, whose kernel the first of them left on disk."""
    for way in WAYS:
        with tempfile.TemporaryDirectory() as folder:
            environment = os.environ | {"FARFIELD_CACHE_DIR": folder, "FARFIELD_URL": WAYS[way]}
            command = [sys.executable, str(Path(__file__)), way]
            starts = [
                json.loads(subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=True).stdout)
                for _ in range(STARTS + 1)
            ]
        cold, *warm = starts
        medians = {key: statistics.median(start[key] for start in warm) for key in cold}
        yield {"what": f"warm start, {way}", "processes": STARTS, **medians, "cold_more_ms": cold["more_ms"]}


def start() -> dict[str, float]:
    """From modules imported to the first result, and what that takes more than the second call."""
    rng = np.random.default_rng(0)
    x, y, b = (rng.random((100, dim), np.float32) for dim in (3, 3, 1))
    times = [time.perf_counter()]
    routine = Genred("Exp(-SqDist(x,y))*b", ["x = Vi(3)", "y = Vj(3)", "b = Vj(1)"], axis=1)
    for _ in range(2):
        routine(x, y, b)
        times.append(time.perf_counter())
    first, second = (1e3 * (after - before) for before, after in itertools.pairwise(times))
    return {"first_ms": first, "more_ms": first - second}


def compile_line(row: dict[str, Any]) -> str:
    """One line."""
    if row["what"] != "compiling":
        first = f"the first result after {row['first_ms']:.1f} ms"
        return f"{row['what']}: {first}, {row['more_ms']:.1f} ms more than again"
    return (
        f"compiling: {row['compiler_cpu_s_median']:.3f} s of CPU time, median of one kernel for each of "
        f"{row['operators']} operators; most {row['compiler_cpu_s_most']:.3f} s ({row['most_at']}); "
        f"before it {row['own_cpu_s_median']:.3f} s"
    )


if __name__ == "__main__":
    if sys.argv[1] == ALL_IMPORTED:
        importlib.import_module("farfield_kernels.engine")
    print(json.dumps(start()))
