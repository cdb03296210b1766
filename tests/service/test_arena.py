"""The arena: leases never overlap, nothing is lost, and what does not fit is refused."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farfield_kernels.errors import LimitError
from farfield_service.arena import ALIGNMENT, Arena
from farfield_service.errors import ServerBusy

SIZE = 16 * ALIGNMENT


@contextlib.contextmanager
def opened(size: int = SIZE) -> Iterator[Arena]:
    """An arena for one test."""
    arena = Arena(size)
    try:
        yield arena
    finally:
        arena.close()


@given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, SIZE)), max_size=60))
def test_leases_never_overlap_and_all_memory_comes_back(steps: list[tuple[bool, int]]) -> None:
    """Whatever is leased and released in whatever order, leases lie apart, and one free range remains."""
    with opened() as arena:
        leases = []
        for is_lease, number in steps:
            if is_lease:
                with contextlib.suppress(ServerBusy):
                    leases.append(arena.lease(number))
            elif leases:
                leases.pop(number % len(leases)).release()
            ordered = sorted((lease.offset, lease.offset + max(lease.size, 1)) for lease in leases)
            assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ordered))
            assert all(start >= 0 and end <= SIZE for start, end in ordered)
            assert arena.used >= sum(lease.size for lease in leases)
        for lease in leases:
            lease.release()
        assert arena.ranges == [(0, SIZE)]
        assert arena.used == 0


def test_a_full_arena_is_busy_until_something_is_released() -> None:
    """The last page can be leased, the one after it not; released pages can be leased again."""
    with opened() as arena:
        first, _ = arena.lease(SIZE - ALIGNMENT), arena.lease(ALIGNMENT)
        with pytest.raises(ServerBusy, match="not free now") as caught:
            arena.lease(1)
        assert caught.value.retry_after_s
        first.release()
        assert arena.lease(SIZE - ALIGNMENT).offset == first.offset


def test_what_can_never_fit_is_over_a_limit_and_not_worth_another_try() -> None:
    """A lease of the whole arena is granted; one byte more is a LimitError that says how much there is."""
    with opened() as arena:
        with pytest.raises(LimitError) as caught:
            arena.lease(SIZE + 1)
        assert caught.value.limit == SIZE
        assert arena.lease(SIZE).size == SIZE


def test_neighbours_that_are_free_become_one() -> None:
    """Three leases released in any order leave room for one of their size."""
    for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (2, 1, 0)):
        with opened(3 * ALIGNMENT) as arena:
            leases = [arena.lease(ALIGNMENT) for _ in range(3)]
            for place in order:
                leases[place].release()
            assert arena.lease(3 * ALIGNMENT).offset == 0


def test_a_lease_released_twice_is_released_once() -> None:
    """The second release cannot free what somebody else leased meanwhile."""
    with opened() as arena:
        lease = arena.lease(1)
        lease.release()
        other = arena.lease(1)
        lease.release()
        assert other.offset == lease.offset
        assert arena.used == ALIGNMENT


def test_a_lease_shows_its_bytes_and_no_others() -> None:
    """Writing to one lease leaves the next as it was, and the file behind the arena has the bytes."""
    with opened() as arena:
        one, two = arena.lease(5), arena.lease(5)
        with one.view as view, two.view as other:
            view[:] = b"first"
            assert len(view) == 5
            assert bytes(other) == bytes(5)
        assert os.pread(arena.fd, 5, one.offset) == b"first"


def test_warming_changes_nothing() -> None:
    """Finding the pages early keeps what was written already."""
    with opened() as arena:
        with arena.lease(5).view as view:
            view[:] = b"first"
        asyncio.run(arena.warm())
        assert os.pread(arena.fd, 5, 0) == b"first"
        assert os.fstat(arena.fd).st_size == SIZE
