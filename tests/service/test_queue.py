"""The queue: first come, first served, no more than fit, and nothing for those who left."""

from __future__ import annotations

import asyncio

import pytest

from farfield_service.arena import ALIGNMENT, Arena
from farfield_service.errors import ServerBusy
from farfield_service.queue import Job, Queue


def job(arena: Arena) -> Job:
    """A job that holds one slot."""
    return Job({}, [arena.lease(ALIGNMENT)], asyncio.get_running_loop().create_future())


def test_jobs_come_out_in_the_order_in_which_they_came() -> None:
    """First in, first out; the length is what waits."""

    async def scene() -> None:
        arena, queue = Arena(8 * ALIGNMENT), Queue(8)
        jobs = [job(arena) for _ in range(3)]
        for one in jobs:
            queue.put(one)
        assert len(queue) == 3
        assert [await queue.get() for _ in jobs] == jobs
        assert len(queue) == 0
        arena.close()

    asyncio.run(scene())


def test_a_full_queue_refuses_until_one_is_taken() -> None:
    """As many jobs as the limit fit; the next is ServerBusy with the limit."""

    async def scene() -> None:
        arena, queue = Arena(8 * ALIGNMENT), Queue(2)
        queue.put(job(arena))
        queue.put(job(arena))
        with pytest.raises(ServerBusy) as caught:
            queue.put(job(arena))
        assert caught.value.limit == 2
        await queue.get()
        queue.put(job(arena))
        arena.close()

    asyncio.run(scene())


def test_a_job_that_nobody_waits_for_is_dropped_and_its_slots_freed() -> None:
    """A cancelled job does not reach the worker."""

    async def scene() -> None:
        arena, queue = Arena(8 * ALIGNMENT), Queue(8)
        left, waiting = job(arena), job(arena)
        queue.put(left)
        queue.put(waiting)
        left.done.cancel()
        assert await queue.get() is waiting
        assert arena.used == ALIGNMENT
        waiting.release()
        assert arena.used == 0
        arena.close()

    asyncio.run(scene())
