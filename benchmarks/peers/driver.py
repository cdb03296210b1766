"""Our side of a peer's process: a workload's name -> one timed call, within a limit of time."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
from pathlib import Path
from typing import Any

from machine import cores

from peers import Peer

FOLDER = Path(__file__).parents[1]
FIRST_LIMIT_S = 60.0  # of a first call: it compiles, and tries several sizes of blocks


class Driver:
    """A peer in a process and a virtual environment of its own, started when it is first asked.

    Args:
        peer: which.
        python: of the peers' virtual environment.
        folder: for results and for caches of compilers, new with each run.
    """

    def __init__(self, peer: Peer, python: str, folder: Path) -> None:
        self.peer, self.python, self.folder = peer, python, folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        """A new process, its caches empty, as many threads as there are cores."""
        environment = os.environ | {
            "KEOPS_CACHE_FOLDER": str(self.folder / "keops"),
            "TORCHINDUCTOR_CACHE_DIR": str(self.folder / "inductor"),
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
            "OMP_NUM_THREADS": str(cores()),
            "JAX_PLATFORMS": "cpu",
            "JAX_ENABLE_X64": "1",  # arrays keep their own type
            # What is freed stays with the process: torch's tuning guide has another allocator for that. Without it
            # a peer spends most of its time on fresh pages for each array.
            "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
            "MALLOC_TRIM_THRESHOLD_": str(1 << 31),
            "MALLOC_TOP_PAD_": str(1 << 26),
        }
        environment.pop("PYTHONPATH", None)
        command = [self.python, "-m", "peers.serve", self.peer.name, str(self.folder)]
        with (self.folder / "peers.log").open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=FOLDER,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def ask(self, name: str, *, first: bool = False) -> dict[str, Any]:
        """What serve.py answers; {"failed": REASON} also if it took too long or ended."""
        process = self.process = self.process or self.start()
        assert process.stdin
        assert process.stdout
        limit_s = FIRST_LIMIT_S if first else self.peer.call_limit_s
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(name.encode() + b"\n")
            process.stdin.flush()
        if not select.select([process.stdout], [], [], limit_s)[0]:
            self.stop()
            return {"failed": f"a {'first ' if first else ''}call took more than {limit_s:g} s"}
        line = process.stdout.readline()
        if not line:
            self.stop()
            return {"failed": f"the process ended with {process.returncode}"}
        answer: dict[str, Any] = json.loads(line)
        if first and answer.get("wall_ms", 0) > self.peer.call_limit_s * 1e3:
            return {"failed": f"a call takes {answer['wall_ms'] / 1e3:.0f} s"}
        return answer

    def stop(self) -> None:
        """End the process and the compilers that it started."""
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
