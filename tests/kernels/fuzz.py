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

from .formula_strategies import draw_group
from .fuzz_checks import Report, failure_of

SIZE = 10  # formulas of one group: more, and a compiler takes as long for one kernel as for two
GROUPS_PER_PROCESS = 20  # a loaded kernel cannot be given back but with its process


def checked(number: int) -> tuple[int, str | None, Report]:
    """The group of one seed: its number, how it fails, if it does, and how much was checked."""
    report = Report()
    return number, failure_of(draw_group(SIZE, number), report), report


def fuzz(formulas: int, first: int, processes: int) -> int:
    """Check that many formulas; prints progress and every failure.

    Returns:
        The number of groups that failed.
    """
    started, groups, failures, total = time.monotonic(), -(-formulas // SIZE), 0, Report()
    print(f"{groups * SIZE} formulas in {groups} groups, seeds {first} to {first + groups - 1}", flush=True)
    with concurrent.futures.ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context("spawn"),
        max_tasks_per_child=GROUPS_PER_PROCESS,
    ) as pool:
        running = [pool.submit(checked, first + k) for k in range(groups)]
        for done, future in enumerate(concurrent.futures.as_completed(running), start=1):
            number, problem, report = future.result()
            total.add(report)
            if problem is not None:
                failures += 1
                print(f"seed {number}: {problem}", flush=True)
            if done % 5 == 0 or done == groups:
                seconds = time.monotonic() - started
                print(f"{done * SIZE} formulas, {failures} failures, {seconds:.0f} s; {total}", flush=True)
    return failures


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
