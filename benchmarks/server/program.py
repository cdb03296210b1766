"""Flags -> a server program of our own, and what the system and the server itself say of it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import cores

from .connection import connect

CLI = (sys.executable, "-m", "farfield_service.cli")
START_S = 60.0
TICK_MS = 1e3 / os.sysconf("SC_CLK_TCK")
SPARE_CORE = {"FARFIELD_THREADS": str(max(1, cores() - 1))}
"""For sections whose clients are many: they and the server keep a core that the worker's threads do not take."""


@dataclass(frozen=True)
class Program:
    """A server that runs."""

    process: subprocess.Popen[str]
    url: str

    @property
    def pid(self) -> int:
        """Of the process that answers HTTP."""
        return self.process.pid

    @property
    def worker_pid(self) -> int:
        """Of its worker program."""
        return children(self)[0]

    def cpu_ms(self) -> float:
        """Processor time that the process has used; the worker's is not in it."""
        words = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(int(ticks) for ticks in words[11:13]) * TICK_MS

    def get(self, path: str, token: str | None = None) -> tuple[int, bytes]:
        """Status and body of a GET."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = connect(self.url)
        with contextlib.closing(connection):
            connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
            response = connection.getresponse()
            return response.status, response.read()

    def info(self) -> Any:
        """`/v1/server`."""
        return json.loads(self.get("/v1/server")[1])

    def metric(self, name: str, token: str | None = None) -> dict[str, float]:
        """Labels, as they are written -> value; empty if the server has no such metric."""
        text = self.get("/metrics", token)[1].decode()
        rows = re.findall(rf"^{name}\{{(.*)\}} (\S+)$", text, re.MULTILINE)
        return {labels: float(value) for labels, value in rows}

    def is_ready(self) -> bool:
        """Whether it can compute."""
        if self.process.poll() is not None:
            raise RuntimeError(f"the server ended with {self.process.returncode}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.get("/readyz")[0] == 200
        return False


@contextlib.contextmanager
def running(*flags: str, **variables: str) -> Iterator[Program]:
    """A server on a free port, or where `flags` say; no setting comes from the caller's environment."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("FARFIELD_") or k == "FARFIELD_CACHE_DIR"}
    place = () if "--uds" in flags else ("--port", "0")
    command = [*CLI, "serve", "--device", "cpu", "--log-level", "error", *place, *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=kept | variables)
    try:
        assert process.stdout
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server did not start: {' '.join(command)}")
        program = Program(process, line.split()[-1])
        deadline = time.monotonic() + START_S
        while not program.is_ready():
            if time.monotonic() > deadline:
                raise RuntimeError(f"no worker was up after {START_S:g} s")
            time.sleep(0.02)
        yield program
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(START_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def children(program: Program) -> list[int]:
    """Process ids of its worker programs."""
    tasks = Path(f"/proc/{program.pid}/task").iterdir()
    return [int(word) for task in tasks for word in (task / "children").read_text().split()]


def resident(pid: int, field: str) -> int:
    """Bytes of a process: `VmRSS` now, `VmHWM` at most, `RssShmem` of shared memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
