"""A compiler that counts its runs, and the cache that it fills."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

SOURCE = 'extern "C" int answer() { return 42; }\n'


@dataclass
class Compiler:
    """A script in front of the real compiler.

    Args:
        script: its path.
        log: has a line per run: the process id of who slept before it compiled.
        cache: the folder of the kernel cache.
        sleep: a file that says for how many seconds.
    """

    script: Path
    log: Path
    cache: Path
    sleep: Path

    @classmethod
    def before(cls, real: str, folder: Path) -> Compiler:
        """Write the script, whose text and so its key stays as it is."""
        made = cls(folder / "cxx", folder / "log", folder / "cache", folder / "sleep")
        made.slow_down(0)
        lines = ("#!/bin/sh", f'seconds=$(cat "{made.sleep}")', 'sleep "$seconds" &', f'echo $! >> "{made.log}"')
        made.script.write_text("\n".join((*lines, "wait $!", f'exec "{real}" "$@"', "")))
        made.script.chmod(0o755)
        return made

    @property
    def runs(self) -> int:
        """How often it was started."""
        return len(self.sleepers())

    def sleepers(self) -> list[int]:
        """Children of the compiler, of all its runs."""
        return [int(line) for line in self.log.read_text().split()] if self.log.exists() else []

    def slow_down(self, seconds: float) -> None:
        """Sleep so long before every compile from now on."""
        self.sleep.write_text(f"{seconds}\n")

    def kept(self) -> list[Path]:
        """The kernels in the cache."""
        return sorted(self.cache.glob("*.so"))


def make_older(path: Path, seconds: float) -> None:
    """As if it had been used so long before."""
    status = path.stat()
    os.utime(path, (status.st_atime - seconds, status.st_mtime - seconds))
