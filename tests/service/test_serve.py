"""`farfield serve`: where it listens, when it refuses to, and how it ends."""

from __future__ import annotations

import contextlib
import http.client
import socket
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from farfield_kernels.build import cuda_device_count
from farfield_service.keys import create_key, revoke_key
from farfield_service.wire import FRAME
from serving import (
    ARENA_BYTES,
    GAUSSIAN,
    WAIT_S,
    children,
    environment,
    frame,
    gaussian,
    gaussian_arrays,
    is_alive,
    post_head,
    serving,
    wait_for,
)

LONG_ROWS = 50_000  # GAUSSIAN on that many rows and columns keeps two cores busy for a second or so


def serve(*flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A server that is expected to end by itself."""
    command = [sys.executable, "-m", "farfield_service.cli", "serve", *flags]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment(**variables), timeout=WAIT_S, check=False
    )


@pytest.mark.parametrize("has_file", [False, True])
@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_it_does_not_let_everybody_in(host: str, has_file: bool, tmp_path: Path) -> None:
    """Beyond loopback it needs a key, not just a file, and says how to make one or where to listen instead."""
    path = tmp_path / "keys.json"
    if has_file:
        revoke_key(path, create_key(path, "alice").split("_")[1])
    done = serve("--host", host, "--port", "0", FARFIELD_KEYS_FILE=str(path) if has_file else "")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"farfield: listening on {host} lets others in and there are no keys: ")
    for advice in ("'farfield keys create NAME --scopes compute'", "--keys-file", "127.0.0.1"):
        assert advice in done.stderr
    assert "Traceback" not in done.stderr


def test_with_keys_it_may_listen_on_an_address_that_others_reach(tmp_path: Path) -> None:
    """The valid neighbour; nothing is sent to it but from this machine."""
    create_key(tmp_path / "keys.json", "alice")
    with serving(tmp_path, "--host", "0.0.0.0", "--keys-file", str(tmp_path / "keys.json")) as server:
        assert server.url.startswith("http://0.0.0.0:")
        assert server.request("GET", "/v1/server").status == 401


def test_a_key_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """One that is not there, is malformed, or is open to others ends with one sentence, on loopback too."""
    path = tmp_path / "keys.json"
    missing = serve("--keys-file", str(path))
    assert f"there is no key file {path}: 'farfield keys create NAME " in missing.stderr
    create_key(path, "alice")
    path.chmod(0o644)
    is_open = serve("--keys-file", str(path))
    assert is_open.stderr.endswith(f"is open to others (mode 0644): chmod 600 {path}\n")
    path.chmod(0o600)
    path.write_text("{}")
    malformed = serve("--keys-file", str(path))
    assert "is malformed: Object missing required field `keys`" in malformed.stderr
    for done in (missing, is_open, malformed):
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)


def test_keys_can_be_required_on_loopback(tmp_path: Path) -> None:
    """Where others share the machine, a forgotten key file stops the start."""
    done = serve("--require-keys", "true", "--uds", str(tmp_path / "socket"))
    assert done.returncode == 1
    assert done.stderr.startswith("farfield: keys are required and there are none: make one with 'farfield keys ")


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    """The second server on a port ends with 1 and says which address is taken."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = serve("--port", str(port))
    assert done.returncode == 1
    assert done.stderr == f"farfield: cannot listen on 127.0.0.1:{port}: Address already in use\n"


def test_a_host_that_does_not_exist_is_named(tmp_path: Path) -> None:
    """An address that is none ends with one sentence."""
    create_key(tmp_path / "keys.json", "alice")
    done = serve("--host", "nowhere.invalid", "--keys-file", str(tmp_path / "keys.json"))
    assert done.returncode == 1
    assert done.stderr.startswith("farfield: cannot listen on nowhere.invalid:8642: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_unix_socket_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A path in no folder, and a path that is a file, end with one sentence; the file is left alone."""
    (tmp_path / "file").write_text("precious")
    assert "cannot listen on" in serve("--uds", str(tmp_path / "none" / "socket")).stderr
    assert "exists and is not a socket" in serve("--uds", str(tmp_path / "file")).stderr
    assert (tmp_path / "file").read_text() == "precious"


def test_a_live_unix_socket_is_not_taken_over(tmp_path: Path) -> None:
    """A second server on the path of a running one says so; the first one goes on."""
    path = tmp_path / "socket"
    with serving(tmp_path, "--uds", str(path)) as server:
        assert "another server listens on" in serve("--uds", str(path)).stderr
        arrays = gaussian_arrays()
        np.testing.assert_allclose(server.call(arrays), gaussian(*arrays), rtol=1e-12)


def test_a_unix_socket_serves_and_is_removed_at_the_end(tmp_path: Path) -> None:
    """It computes over the socket, also where an old socket lay, and leaves none behind."""
    path = tmp_path / "farfield.sock"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    arrays = gaussian_arrays()
    with serving(tmp_path, "--uds", str(path)) as server:
        assert server.url == f"http+unix://{path}"
        assert stat.S_ISSOCK(path.stat().st_mode)
        np.testing.assert_allclose(server.call(arrays), gaussian(*arrays), rtol=1e-12)
    assert not path.exists()


def test_flags_and_environment_reach_the_server(tmp_path: Path) -> None:
    """/v1/limits shows both, and the flag where both are given."""
    flags = ("--max-queue", "3", "--max-pairs", "1000")
    with serving(tmp_path, *flags, FARFIELD_MAX_QUEUE="4", FARFIELD_MAX_BODY_BYTES="5000") as server:
        limits = server.get("/v1/limits")
        assert (limits["max_queue"], limits["max_pairs"], limits["max_body_bytes"]) == (3, 1000, 5000)


def test_a_server_leaves_no_process_and_says_nothing_but_its_address(tmp_path: Path) -> None:
    """After the end the worker is gone, and the log has no traceback."""
    with serving(tmp_path) as server:
        workers = children(server.process.pid)
        assert len(workers) == 1
    assert not any(is_alive(pid) for pid in workers)
    assert "Traceback" not in server.log.read_text()


def test_a_full_queue_answers_busy_and_keeps_no_memory(tmp_path: Path) -> None:
    """With one request running and one waiting, the third is 503 with Retry-After and keeps no memory."""
    body = frame(GAUSSIAN, gaussian_arrays(M=LONG_ROWS, N=LONG_ROWS, dtype="float32"))
    with serving(tmp_path, "--max-queue", "1") as server, server.socket() as one, server.socket() as two:
        one.sendall(post_head(len(body)) + body)
        server.wait_until_computing()
        two.sendall(post_head(len(body)) + body)
        wait_for(lambda: server.info()["waiting"] == 1, "a waiting request")
        small = frame(GAUSSIAN, gaussian_arrays())
        used = server.info()["arena_bytes_used"]
        answer = server.request("POST", "/v1/reduce", small, {"Content-Type": FRAME, "Accept": "application/json"})
        assert (answer.status, answer.json()["code"]) == (503, "server_busy")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert server.info()["arena_bytes_used"] == used
        for client in (one, two):
            response = http.client.HTTPResponse(client)
            response.begin()
            assert response.status == 200
            response.close()
        wait_for(server.is_idle_and_empty, "an empty arena")


def test_bodies_on_their_way_do_not_take_the_whole_arena(tmp_path: Path) -> None:
    """A user whose half-sent body holds a third of it is 429 with a second one, while another user computes."""
    keys = tmp_path / "keys.json"
    ada, ben = create_key(keys, "ada"), create_key(keys, "ben")
    with serving(tmp_path, "--keys-file", str(keys)) as server, server.socket() as first:
        first.sendall(post_head(ARENA_BYTES // 3, kind="application/msgpack", token=ada) + bytes(1000))
        for token, expected in ((ada, 429), (ben, None)):
            with server.socket() as second:
                second.sendall(post_head(ARENA_BYTES // 3, kind="application/msgpack", token=token))
                second.settimeout(1.0 if expected is None else WAIT_S)
                try:
                    answer = second.recv(4096)
                except TimeoutError:  # it is waited for
                    answer = b""
                assert answer.startswith(b"HTTP/1.1 429" if expected else b"")
                assert (b"quota_exceeded" in answer) == (expected == 429)
        arrays = gaussian_arrays()
        np.testing.assert_allclose(server.call(arrays, ben), gaussian(*arrays), rtol=1e-12)


def test_a_request_that_can_never_fit_is_refused_for_good(tmp_path: Path) -> None:
    """A body larger than the shared memory is over a limit, not a reason to try again later."""
    with serving(tmp_path) as server, server.socket() as client:
        client.sendall(post_head(ARENA_BYTES + 1, kind="application/msgpack"))
        response = http.client.HTTPResponse(client)
        response.begin()
        assert response.status == 413
        response.close()


def test_without_a_worker_it_says_why_and_does_not_let_callers_wait(tmp_path: Path) -> None:
    """A worker that cannot start is a typed answer and a reason at /readyz, not a call that hangs."""
    command = [sys.executable, "-m", "farfield_service.cli", "serve", "--port", "0", "--device", "cuda"]
    command += ["--arena-bytes", str(ARENA_BYTES), "--drain-s", "0"]
    if cuda_device_count():
        pytest.skip("there is a CUDA device here: the worker starts")
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment())
    assert process.stdout is not None
    with process.stdout:
        port = int(process.stdout.readline().rpartition(":")[2])
    try:
        reason = wait_for(lambda: _failure(port), "a reason")
        assert "did not start" in reason
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        body = frame(GAUSSIAN, gaussian_arrays())
        connection.request("POST", "/v1/reduce", body, {"Content-Type": FRAME, "Accept": "application/json"})
        response = connection.getresponse()
        assert response.status == 503
        assert b"did not start" in response.read()
        connection.close()
    finally:
        process.terminate()
        assert process.wait(WAIT_S) == 0


def _failure(port: int) -> str | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError):
        connection.request("GET", "/readyz")
        content = connection.getresponse().read().decode()
        return content if "did not start" in content else None
    return None
