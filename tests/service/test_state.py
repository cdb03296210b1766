"""The server's memory is shared: one user's requests leave room for those of others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from farfield.wire import FRAME
from farfield_service.arena import Arena
from farfield_service.errors import QuotaExceeded, ServerBusy
from farfield_service.keys import LOCAL, User, create_key
from farfield_service.metrics import Metrics
from farfield_service.pool import Pool
from farfield_service.queue import Queue
from farfield_service.settings import Settings
from farfield_service.state import State
from serving import COPY, GAUSSIAN, frame, gaussian_arrays, numbered, post_head, serving, wait_for

MiB = 2**20
ENDLESS_ROWS = 500_000  # rows and columns on which a worker is busy for minutes


@pytest.fixture
def state() -> Iterator[State]:
    """A server's parts, with 8 MiB of shared memory of which each user may hold half."""
    settings = Settings(device="cpu", arena_bytes=8 * MiB)
    arena, queue, metrics = Arena(settings.arena_bytes), Queue(9, 9), Metrics()
    yield State(settings, arena, queue, Pool(settings, arena, queue, metrics), metrics)
    arena.close()


def test_a_users_requests_hold_a_part_of_the_memory(state: State) -> None:
    """Until they give it back; one alone may hold more, and others have their own part."""
    hog, light = User("hog", frozenset()), User("light", frozenset())
    state.check_share(hog, 8 * MiB)
    body = state.arena.lease(3 * MiB, "hog")
    state.check_share(hog, 5 * MiB, own=3 * MiB)
    state.check_share(hog, MiB)
    with pytest.raises(QuotaExceeded) as caught:
        state.check_share(hog, MiB + 1)
    assert (caught.value.limit, caught.value.retry_after_s) == (4 * MiB, 1.0)
    second = state.arena.lease(MiB, "hog")
    with pytest.raises(QuotaExceeded):
        state.check_share(hog, 1, own=MiB)
    state.check_share(light, 4 * MiB)
    second.release()
    second.release()
    state.check_share(hog, MiB)
    body.release()
    assert not state.arena.held


def test_a_server_without_keys_has_one_user_who_may_hold_all(state: State) -> None:
    """Nobody else is there to leave room for."""
    state.arena.lease(6 * MiB, LOCAL.name)
    state.check_share(LOCAL, 2 * MiB)


def test_full_memory_says_when_room_is_expected(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the jobs that wait are expected to take."""
    monkeypatch.setattr(state.queue, "_ahead_s", 70.0)
    monkeypatch.setattr(state.queue, "_jobs", 10)
    state.arena.lease(8 * MiB, "user")
    with pytest.raises(ServerBusy) as caught:
        state.arena.lease(1, "other")
    assert caught.value.retry_after_s == 7.0


def test_a_users_results_are_refused_before_his_body_is_sent(tmp_path: Path) -> None:
    """429 by the head of a frame whose results would be too much; another user's are computed."""
    keys = tmp_path / "keys.json"
    hog, light = (create_key(keys, name) for name in ("hog", "light"))
    endless = frame(GAUSSIAN, gaussian_arrays(M=ENDLESS_ROWS, N=ENDLESS_ROWS, dtype="float32"))  # 20 MB in all
    body = frame(COPY, numbered(500_000))  # 8 MB up, 8 MB down
    with serving(tmp_path, "--keys-file", str(keys), "--drain-s", "0") as server, contextlib.ExitStack() as stack:
        other, client = stack.enter_context(server.socket()), stack.enter_context(server.socket())
        other.sendall(post_head(len(endless), token=hog) + endless)
        headers = {"Authorization": f"Bearer {light}"}

        def used() -> int:
            return int(server.request("GET", "/v1/server", headers=headers).json()["arena_bytes_used"])

        wait_for(lambda: used() > 19_000_000, "a request that holds memory")
        client.sendall(post_head(len(body), token=hog) + body[:10_000])
        answer = client.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 429"), answer
        assert b"bytes of shared memory are held" in answer
        assert server.request("POST", "/v1/reduce", body, headers | {"Content-Type": FRAME}).status == 200
