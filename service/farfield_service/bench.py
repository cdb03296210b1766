"""`farfield bench --machine`: the limits of this machine as a table or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict

from farfield_kernels.machine import DTYPES, Limits, limits_path, measure, measured
from farfield_kernels.tally import OPERATIONS


def bench_machine(*, as_json: bool) -> int:
    """Measure, keep and print the limits; what is being done goes to standard error."""
    limits = measure(lambda line: print(line, file=sys.stderr, flush=True))
    print(f"kept as {limits_path()}", file=sys.stderr, flush=True)
    print(json.dumps(asdict(limits), indent=2) if as_json else "\n".join(table(limits)))
    return 0


def table(limits: Limits) -> Iterable[str]:
    """One line per class of operations and per function."""
    yield f"{limits.processor}: {limits.threads} threads, {limits.date}"
    yield f"one thread reads {limits.read_gb_s:.1f} GB/s of memory"
    yield ""
    yield f"{'of one core':<16} {'float32':^19} {'float64':^19}"
    yield f"{'':<16} {'10^9 per s':>11} {'fma':>7} {'10^9 per s':>11} {'fma':>7}"
    for name in measured(DTYPES[0]):
        columns = [
            f"{limits.per_s(dtype, name) / 1e9:11.2f} {limits.in_fma(dtype, name):7.1f}" for dtype in DTYPES
        ]
        yield f"{name:<16} {' '.join(columns)}  {OPERATIONS.get(name, '')}".rstrip()
    yield ""
    yield "fma: so many of them wait for one operation, as they need the same units"
