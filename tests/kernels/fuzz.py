"""`make fuzz`: thousands of random formulas through all checks of `fuzz_checks`, on every core.

Each group of formulas belongs to a seed of its own; a failure names it, so that `--seed N --formulas 10` draws the
same ones again.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool

from .formula_strategies import draw_group
from .fuzz_checks import Report, failure_of

SIZE = 10  # formulas of one group: more, and a compiler takes as long for one kernel as for two
ROUND = 20  # groups per process, then new processes: a loaded kernel can be given back in no other way


Checked = tuple[int, str | None, Report]


def checked(number: int) -> Checked:
    """The group of one seed: its number, how it fails, if it does, and how much was checked."""
    report = Report()
    return number, failure_of(draw_group(SIZE, number), report), report


def fuzz(formulas: int, first: int, processes: int) -> int:
    """Check that many formulas; prints progress and every failure.

    Returns:
        The number of groups that failed.
    """
    started, failures, total = time.monotonic(), 0, Report()
    seeds = list(range(first, first - (-formulas // SIZE)))
    print(f"{len(seeds) * SIZE} formulas in {len(seeds)} groups, seeds {first} to {seeds[-1]}", flush=True)
    for begin in range(0, len(seeds), ROUND * processes):
        taken = seeds[begin : begin + ROUND * processes]
        for done, (number, problem, report) in enumerate(_round(taken, processes), start=begin + 1):
            total.add(report)
            if problem is not None:
                failures += 1
                print(f"seed {number}: {problem}", flush=True)
            if done % 10 == 0 or done == len(seeds):
                seconds = time.monotonic() - started
                print(f"{done * SIZE} formulas, {failures} failures, {seconds:.0f} s; {total}", flush=True)
    return failures


def _round(seeds: list[int], processes: int) -> Iterator[Checked]:
    """The groups of some seeds, checked by new processes."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, mp_context=context) as pool:
        running = {pool.submit(checked, seed): seed for seed in seeds}
        for future in concurrent.futures.as_completed(running):
            try:
                yield future.result()
            except BrokenProcessPool:
                yield running[future], "not checked: a process crashed, at this seed or at one beside it", Report()


def main() -> None:
    """Read the command line; exit with 1 if a formula failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--formulas", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=random.randrange(10**9), help="of the first group")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FARFIELD_CACHE_DIR"] = folder
        failures = fuzz(asked.formulas, asked.seed, asked.processes)
    raise SystemExit(min(failures, 1))


if __name__ == "__main__":
    main()
