"""What a process holds: memory of its own, file descriptors, threads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

MiB = 2**20


@dataclass(frozen=True)
class Footprint:
    """One reading of a process.

    Args:
        anonymous_bytes: resident memory but for files and shared memory.
        descriptors, threads: how many are open, and run.
    """

    anonymous_bytes: int
    descriptors: int
    threads: int


def footprint(pid: int) -> Footprint:
    """A reading now.

    Raises:
        OSError: there is no such process.
    """
    process = Path(f"/proc/{pid}")
    found = re.search(r"RssAnon:\s*(\d+) kB", (process / "status").read_text())
    return Footprint(
        int(found.group(1)) * 1024 if found else 0,
        len(list((process / "fd").iterdir())),
        len(list((process / "task").iterdir())),
    )
