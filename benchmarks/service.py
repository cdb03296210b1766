"""The server, each figure against its yardstick in the same run, beside its target.

    .venv/bin/python benchmarks/service.py
    .venv/bin/python benchmarks/service.py --sections transfer,seed --no-save

Servers and clients are programs on this machine, over loopback. Each section is saved when it is done, with its
own date.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from machine import save_section
from server import clients, codec, fair, handoff, memory, overload, seed, spread, transfer
from server.figures import Extent, Figure, NotMeasured

BUSY = 0.5  # load average, from which a run is not to be trusted


@dataclass(frozen=True)
class Section:
    """One part of the run and of the results."""

    name: str
    doc: str
    measure: Callable[[Extent], Iterator[Figure]]


SECTIONS = (
    Section("transfer", "bodies up and results down, against a plain-socket echo", transfer.measure),
    Section("memory", "what requests of 100 MB take at their peak, in the server and in a client", memory.measure),
    Section("handoff", "to a worker and back, without copies and kernel", handoff.measure),
    Section("codec", "the client's encoding and decoding of 100 MB", codec.measure),
    Section("seed", "the seed's forward and gradient, against in process", seed.measure),
    Section("clients", "32 clients at once, and 10,000 calls on one connection", clients.measure),
    Section("overload", "ten times as many requests as the server can compute", overload.measure),
    Section("fair", "light users beside a hog, and users of unequal weight", fair.measure),
    Section("spread", "a long request by two workers, against one", spread.measure),
)


def run(section: Section, options: argparse.Namespace) -> list[Figure]:
    """Print every figure as soon as it is there; save when the section is done."""
    print(f"\n== {section.name}: {section.doc}", flush=True)
    load = os.getloadavg()[0]
    figures = []
    try:
        for figure in section.measure(Extent(options.repeats, options.short)):
            figures.append(figure)
            print(figure.line(), flush=True)
    except NotMeasured as error:
        print(f"not measured, and not saved: {error}", file=sys.stderr)
        return figures
    if options.save:
        content = {"load_at_start": load, "figures": [figure.row() for figure in figures]}
        print(f"saved in {save_section('service', section.name, content, [known.name for known in SECTIONS])}")
    return figures


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Flags; sections in their order."""
    known = {section.name: section for section in SECTIONS}

    def listed(text: str) -> list[Section]:
        words = [word.strip() for word in text.split(",") if word.strip()]
        for word in words:
            if word not in known:
                raise argparse.ArgumentTypeError(f"{word!r} is not one of {', '.join(known)}")
        return [section for section in SECTIONS if section.name in words]

    described = [f"  {section.name:<12} {section.doc}" for section in SECTIONS]
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="\n".join(["sections:", *described]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    text = "comma-separated, of those below (default: all)"
    parser.add_argument("--sections", type=listed, default=list(SECTIONS), metavar="LIST", help=text)
    text = "timed calls of each, in place of a section's own number"
    parser.add_argument("--repeats", type=int, metavar="N", help=text)
    text = "a sixth of all numbers and seconds, to see that it works; not saved"
    parser.add_argument("--short", action="store_true", help=text)
    parser.add_argument("--no-save", dest="save", action="store_false", help="print only")
    options = parser.parse_args(arguments)
    options.save = options.save and not options.short
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sections, say what misses its target."""
    options = parse(arguments)
    if (load := os.getloadavg()[0]) > BUSY:
        print(f"others use this machine (load {load:.1f}): times will be too long", file=sys.stderr)
    os.environ.pop("FARFIELD_URL", None)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["FARFIELD_CACHE_DIR"] = cache
        figures = [figure for section in options.sections for figure in run(section, options)]
    judged = [figure for figure in figures if figure.is_met is not None]
    print(f"\n{sum(bool(figure.is_met) for figure in judged)} of {len(judged)} targets are met")
    for figure in judged:
        if not figure.is_met:
            print(f"NOT MET: {figure.name}: {figure.value:.4g} {figure.unit}, target {figure.target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
