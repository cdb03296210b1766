"""The embedded engine on this machine's CPU: against every peer, and by itself.

    make bench-peers && .venv/bin/python benchmarks/cpu.py

Ours and the peers are called in turn, call by call, in one run. Separation is off, but for the sum that only it
can compute. CPU time (summed over threads) is what contention on the machine moves least; wall time stands
beside it. Errors are the root mean square and the largest difference to float64 NumPy, on the first rows, relative
to the largest value there; the first are compared: the largest differs by a third between two orders of addition.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import compare
import compile_time
import drawn
import scaling
import served
from machine import cores, save_section
from peers import KEOPS, PEERS, Peer
from peers.driver import Driver
from plot import draw
from workloads import OTHERS, SEPARATED, WORKLOADS, Workload

HERE = Path(__file__).parent
BUSY = 0.5  # load average, from which a run is not to be trusted
Row = dict[str, Any]


@dataclass(frozen=True)
class Section:
    """One part of the run and of the results.

    Args:
        name: in `--sections` and in the results.
        doc: what it measures.
        rows: options -> one row at a time; each is printed and saved as soon as it is there.
        lines: a row -> what is printed of it.
        summary: all rows -> what else is kept.
    """

    name: str
    doc: str
    rows: Callable[[argparse.Namespace], Iterator[Row]]
    lines: Callable[[Row], Iterable[str]]
    summary: Callable[[Sequence[Row]], Row] = lambda rows: {}


def compared(workloads: Iterable[Workload], peers: Iterable[Peer], options: argparse.Namespace) -> Iterator[Row]:
    """Ours against those peers that were asked for."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = [peer for peer in peers if peer in options.peers]
        drivers = tuple(Driver(peer, options.peers_python, Path(folder)) for peer in wanted)
        contest = compare.Contest(drivers, options.repeats)
        try:
            for workload in workloads:
                if options.only in workload.name:
                    yield compare.measure(workload, contest)
        finally:
            contest.close()


def randomly(options: argparse.Namespace) -> Iterator[Row]:
    """Drawn workloads against pykeops, and what they are."""
    listed = drawn.workloads(options.seed)
    by_name = {workload.name: workload for workload in listed}
    for row in compared(listed, (KEOPS,), options):
        yield row | {"formula": drawn.describe(by_name[row["workload"]])}


def separated(options: argparse.Namespace) -> Iterator[Row]:
    """Ours alone: by pairs it would take a peer an hour."""
    for workload in SEPARATED:
        if options.only in workload.name:
            yield compare.measure(workload, compare.Contest((), options.repeats), separation="auto")


def with_formula(row: Row) -> Iterator[str]:
    """A drawn workload's lines."""
    yield from compare.lines(row)
    yield f"    {row['formula']}"


SECTIONS = (
    Section(
        "workloads",
        "eighteen reductions against every peer",
        lambda options: compared(WORKLOADS, PEERS, options),
        compare.lines,
        compare.summary,
    ),
    Section(
        "backward",
        "whole backward passes against every peer",
        lambda options: compared(OTHERS, PEERS, options),
        compare.lines,
        compare.summary,
    ),
    Section("separated", "a sum of a million rows and columns that separates", separated, compare.lines),
    Section("drawn", "workloads drawn at random, against pykeops", randomly, with_formula, compare.summary),
    Section(
        "linear",
        "CPU time of a hundred times as many pairs",
        lambda options: scaling.linear(),
        lambda row: [scaling.linear_line(row)],
    ),
    Section(
        "memory",
        "what a call takes beyond its arguments and results",
        lambda options: scaling.memory(options.only),
        lambda row: [scaling.memory_line(row)],
    ),
    Section(
        "http",
        "long calls through a server, against in process",
        lambda options: served.ratios(options.only),
        lambda row: [served.line(row)],
    ),
    Section(
        "compile",
        "CPU time of compiling, and a start with kernels on disk",
        lambda options: compile_time.compiling(options.only),
        lambda row: [compile_time.compile_line(row)],
    ),
)


def run(section: Section, options: argparse.Namespace) -> None:
    """Print every row, and save what there is after it."""
    print(f"\n== {section.name}: {section.doc}", flush=True)
    rows: list[Row] = []

    def keep(*, is_complete: bool) -> None:
        content: Row = {"threads": cores(), "load_at_start": options.load, "complete": is_complete, "rows": rows}
        content |= section.summary(rows)
        if section.name == "drawn":
            content["seed"] = options.seed
        if options.save:
            save_section("cpu", section.name, content, [known.name for known in SECTIONS])

    for row in section.rows(options):
        rows.append(row)
        print("\n".join(section.lines(row)), flush=True)
        keep(is_complete=False)
    keep(is_complete=True)
    for line in compare.summary_lines(section.summary(rows)):
        print(line, flush=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Flags; peers as records, sections in their order."""

    def listed(known: dict[str, Any]) -> Callable[[str], list[Any]]:
        def read(text: str) -> list[Any]:
            words = [word.strip() for word in text.split(",") if word.strip()]
            for word in words:
                if word not in known:
                    raise argparse.ArgumentTypeError(f"{word!r} is not one of {', '.join(known)}")
            return [value for name, value in known.items() if name in words]

        return read

    sections, peers = {section.name: section for section in SECTIONS}, {peer.name: peer for peer in PEERS}
    described = [f"  {section.name:<12} {section.doc}" for section in SECTIONS]
    described += ["peers:", *(f"  {peer.name:<12} {peer.doc}" for peer in PEERS)]
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="\n".join(["sections:", *described]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="workloads with TEXT in their name; not saved")
    known: dict[str, Any]
    for flag, known in (("--sections", sections), ("--peers", peers)):
        every, text = list(known.values()), "comma-separated, of those below (default: all)"
        parser.add_argument(flag, type=listed(known), default=every, metavar="LIST", help=text)
    parser.add_argument(
        "--repeats",
        type=int,
        default=16,
        help="timed calls of ours, and the most of a peer, whose calls share "
        f"{compare.BUDGET_S:g} s and are {compare.LEAST_CALLS} at least (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=drawn.SEED, help="of drawn workloads (default: %(default)s)")
    parser.add_argument("--peers-python", default=str(HERE.parent / ".venv-peers/bin/python"))
    parser.add_argument("--no-save", dest="save", action="store_false", help="print only")
    parser.add_argument("--plot-only", action="store_true", help="draw what results/cpu.json has, measure nothing")
    options = parser.parse_args(arguments)
    options.save = options.save and not options.only
    options.load = os.getloadavg()[0]
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sections, draw the figure."""
    options = parse(arguments)
    if not options.plot_only:
        if options.load > BUSY:
            print(
                f"others use this machine (load {options.load:.1f}): peers' times will be too long",
                file=sys.stderr,
            )
        if not Path(options.peers_python).exists():
            print(f"no peer is compared: no {options.peers_python} (make bench-peers)", file=sys.stderr)
            options.peers = []
        os.environ.pop("FARFIELD_URL", None)
        with tempfile.TemporaryDirectory() as cache:
            os.environ["FARFIELD_CACHE_DIR"] = cache  # so that first calls compile
            for section in options.sections:
                run(section, options)
    if options.save or options.plot_only:
        figure = draw()
        print(f"drawn as {figure}" if figure else "results/cpu.json has no times of pykeops to draw")
    return 0


if __name__ == "__main__":
    sys.exit(main())
