"""A script run against a server of its own on a free loopback port."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .cli import CommandError

EXAMPLE = "sum_reduction.py"
STOP_TIMEOUT_S = 15
REMOTE = {  # not the demo's
    f"FARFIELD_{name}" for name in ("HOST", "UDS", "KEYS_FILE", "REQUIRE_KEYS", "ALLOWED_HOSTS", "URL", "TOKEN")
}


def run_demo(script: str | None) -> int:
    """Start a server, run `script` with FARFIELD_URL set, stop the server; returns the script's exit status.

    Raises:
        CommandError: the script is not there, or the server did not start.
    """
    path = Path(script) if script else _example()
    if not path.is_file():
        raise CommandError(f"there is no script {path}")
    command = [sys.executable, "-m", "farfield_service.cli", "serve", "--port", "0", "--log-level", "warning"]
    environment = {name: value for name, value in os.environ.items() if name not in REMOTE}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        if not line:
            raise CommandError(f"the server did not start: it ended with {server.wait()}")
        print(line.strip(), flush=True)
        environment |= {"FARFIELD_URL": line.split()[-1]}
        return subprocess.run([sys.executable, str(path)], env=environment, check=False).returncode
    finally:
        server.terminate()
        try:
            server.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _example() -> Path:
    """The example as installed, or as it lies in a checkout."""
    here = Path(__file__).resolve()
    installed = here.parent / "examples" / EXAMPLE
    return installed if installed.exists() else here.parents[2] / "examples" / EXAMPLE
