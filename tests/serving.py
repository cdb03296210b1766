"""A real server for tests: a program of its own, started, awaited, stopped, its end checked."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
import pytest

from farfield.session import Session
from farfield.transport import Http
from farfield.wire import FRAME, encode_call
from farfield_kernels.operation import Spec

Array = np.ndarray[Any, Any]
T = TypeVar("T")

ARENA_BYTES = 64 * 2**20
WAIT_S = 30.0  # for anything that should happen soon, on a machine that does much else

COPY = Spec("x*y", ("x = Vi(2)", "y = Vj(1)"))  # with one row of y = 1 the result is x, to the bit
GAUSSIAN = Spec("Exp(-SqDist(x,y))*b", ("x = Vi(3)", "y = Vj(3)", "b = Vj(2)"))


def gaussian_arrays(seed: int = 0, M: int = 7, N: int = 5, dtype: str = "float64") -> list[Array]:
    """Arguments of GAUSSIAN."""
    random = np.random.default_rng(seed)
    return [random.normal(size=shape).astype(dtype) for shape in ((M, 3), (N, 3), (N, 2))]


def gaussian(x: Array, y: Array, b: Array) -> Array:
    """GAUSSIAN computed by NumPy."""
    return np.exp(-((x[:, None] - y[None]) ** 2).sum(2)) @ b


def numbered(rows: int, number: float = 0.0) -> list[Array]:
    """Arguments of COPY, unlike those of any other number."""
    return [np.stack([np.full(rows, float(number)), np.arange(rows)], 1), np.ones((1, 1))]


def words(spec: Spec) -> dict[str, Any]:
    """A spec as a request carries it."""
    fields = ("formula", "variables", "reduction", "axis", "wrt")
    return {name: getattr(spec, name) for name in fields}


def frame(spec: Spec, arrays: list[Array]) -> bytes:
    """The body of a request."""
    return b"".join(encode_call(words(spec), arrays))


def post_head(length: int, kind: str = FRAME, path: str = "/v1/reduce", token: str | None = None) -> bytes:
    """The head of a request, for tests that write to the socket themselves."""
    more = f"Authorization: Bearer {token}\r\n" if token else ""
    start = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n"
    return f"{start}Content-Type: {kind}\r\nContent-Length: {length}\r\n{more}\r\n".encode()


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass
class Server:
    """A server program."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    def session(self, token: str | None = None, timeout_s: float = 60.0) -> Session:
        """A client's session that is not the default one."""
        return Session(Http(self.url, token, timeout_s))

    def call(self, arrays: list[Array], token: str | None = None) -> Array:
        """GAUSSIAN of `arrays`, through a client of its own."""
        with contextlib.closing(self.session(token)) as session:
            return session.call(GAUSSIAN, arrays)[0]

    def socket(self) -> socket.socket:
        """A connection for bytes of the test's own making."""
        parts = urlsplit(self.url)
        if parts.scheme == "http+unix":
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(parts.path)
        else:
            connection = socket.create_connection((parts.hostname, parts.port))
        connection.settimeout(WAIT_S)
        if parts.scheme == "https":
            return ssl.create_default_context().wrap_socket(connection, server_hostname=parts.hostname)
        return connection

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request by `http.client`, which knows nothing of Farfield."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = self.socket()
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def get(self, path: str) -> Any:
        """The JSON of a GET that succeeds."""
        answer = self.request("GET", path)
        assert answer.status == 200, answer
        return answer.json()

    def info(self) -> Any:
        """`/v1/server`."""
        return self.get("/v1/server")

    def wait_until_computing(self) -> None:
        """Until the worker spends time on a request, which has to be a long one."""
        wait_for(lambda: self.info()["is_ready"], "a worker")
        worker = self.worker_pid()
        before = cpu_ticks(worker)
        wait_for(lambda: cpu_ticks(worker) > before + 2, "a running request")

    def is_idle_and_empty(self) -> bool:
        """Whether no request holds memory."""
        return self.info()["arena_bytes_used"] == 0

    def worker_pid(self) -> int:
        """Process id of the worker, as the system knows it."""
        return wait_for(lambda: next(iter(children(self.process.pid)), None), "a worker program")

    def kill_worker(self) -> None:
        """End the worker as the system would when memory runs out."""
        os.kill(self.worker_pid(), signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, which ends a server with 0."""
        self.process.terminate()
        try:
            status = self.process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        assert status == 0, f"the server ended with {status}:\n{self.log.read_text()[-4000:]}"


def children(pid: int) -> list[int]:
    """Process ids of the children of a process that are alive."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                found.append(int(status.parent.name))
    return sorted(found)


def cpu_ticks(pid: int) -> int:
    """Processor time that a process has used, in hundredths of a second on most systems."""
    return sum(int(ticks) for ticks in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], T | None], what: str, timeout_s: float = WAIT_S) -> T:
    """What `condition` returns once that is true; fails if it never is."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come within {timeout_s:g} s"
        time.sleep(0.01)
    return found


def environment(**more: str) -> dict[str, str]:
    """The environment of a program under test: nothing of Farfield's but the kernel cache, and `more`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("FARFIELD_") or k == "FARFIELD_CACHE_DIR"}
    return kept | more


def start(folder: Path, *flags: str, **variables: str) -> Server:
    """Start `farfield serve` on a free port, or where `flags` say, and wait until it can compute."""
    command = [sys.executable, "-m", "farfield_service.cli", "serve"]
    command += ["--port", "0", "--device", "cpu", "--arena-bytes", str(ARENA_BYTES), *flags]
    variables = {"FARFIELD_THREADS": "2"} | variables  # so that a long request is long on every machine
    log = folder / "server.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment(**variables)
        )
    assert process.stdout is not None
    with process.stdout:
        line = process.stdout.readline()
    assert line.startswith("Farfield is listening on "), log.read_text()
    server = Server(process, line.split()[-1], log)
    try:
        wait_for(lambda: _is_ready(server), "a worker")
    except BaseException:
        process.kill()
        process.wait()
        raise
    return server


def _is_ready(server: Server) -> bool:
    assert server.process.poll() is None, server.log.read_text()
    with contextlib.suppress(OSError, http.client.HTTPException):
        return server.request("GET", "/readyz").status == 200
    return False


@contextlib.contextmanager
def serving(folder: Path, *flags: str, **variables: str) -> Iterator[Server]:
    """A server for one test; it is stopped, and has to end with 0 unless the test ended it itself."""
    server = start(folder, *flags, **variables)
    try:
        yield server
    except BaseException:
        server.process.kill()
        server.process.wait()
        raise
    if server.process.returncode is None:
        server.stop()


@contextlib.contextmanager
def certificate(folder: Path) -> Iterator[list[str]]:
    """The flags of a server with a self-signed certificate, which clients trust meanwhile."""
    path, key = folder / "certificate.pem", folder / "key.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost"
    )
    names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-out", str(path), "-keyout", str(key)]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(path))
        yield ["--tls-certificate", str(path), "--tls-key", str(key)]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, kernel_cache: Path) -> Iterator[Server]:
    """The server that tests share if they leave it as they found it."""
    with serving(tmp_path_factory.mktemp("server")) as running:
        yield running
