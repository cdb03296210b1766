"""One shared memory arena for all bodies and results in flight; slots of it are leased to requests.

The arena is taken once, and its pages are found in the background while the server starts, so that no request
waits for the kernel to find memory. The workers inherit it: data cross to them without a copy.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from farfield_kernels.errors import LimitError

from .errors import ServerBusy

ALIGNMENT = 4096
WARM_BYTES = 2**24


@dataclass
class Lease:
    """A slot of the arena: bytes [offset, offset + size) belong to one request until it is released."""

    arena: Arena
    offset: int
    size: int
    owner: str = ""
    is_released: bool = field(default=False)

    @property
    def view(self) -> memoryview:
        """The slot's bytes."""
        return self.arena.memory[self.offset : self.offset + self.size]

    def release(self) -> None:
        """Give the slot back; twice is once."""
        if not self.is_released:
            self.is_released = True
            self.arena.free(self)


class Arena:
    """The memory and the list of its free ranges.

    Args:
        size: bytes.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.fd = _anonymous_file(size)
        self.mapping = mmap.mmap(self.fd, size)
        self.memory = memoryview(self.mapping)
        self.ranges: list[tuple[int, int]] = [(0, size)]  # free: (offset, size), sorted, never touching
        self.held: Counter[str] = Counter()  # bytes by owner
        self.expected_room_s: Callable[[], float | None] = lambda: None  # until something is given back

    async def warm(self) -> None:
        """Have the system find all pages now, piece by piece, beside other work."""
        if hasattr(os, "posix_fallocate"):
            for offset in range(0, self.size, WARM_BYTES):
                length = min(WARM_BYTES, self.size - offset)
                await asyncio.to_thread(os.posix_fallocate, self.fd, offset, length)

    def lease(self, size: int, owner: str = "") -> Lease:
        """The first free range that is large enough, held by its owner until it is released.

        Raises:
            ServerBusy: there is none now. LimitError: there can never be one.
        """
        if size > self.size:
            raise LimitError(f"{size} bytes are above this server's {self.size} of shared memory", limit=self.size)
        wanted = max(ALIGNMENT, -(-size // ALIGNMENT) * ALIGNMENT)
        for place, (offset, available) in enumerate(self.ranges):
            if available >= wanted:
                rest = (offset + wanted, available - wanted)
                self.ranges[place : place + 1] = [rest] if rest[1] else []
                self.held[owner] += size
                return Lease(self, offset, size, owner)
        message = f"{size} bytes of shared memory are not free now"
        raise ServerBusy(message, limit=self.size, retry_after_s=self.expected_room_s())

    def free(self, lease: Lease) -> None:
        """Take a range back and join it with its free neighbours."""
        size = max(ALIGNMENT, -(-lease.size // ALIGNMENT) * ALIGNMENT)
        joined: list[tuple[int, int]] = []
        for offset, length in sorted([*self.ranges, (lease.offset, size)]):
            if joined and sum(joined[-1]) == offset:
                joined[-1] = (joined[-1][0], joined[-1][1] + length)
            else:
                joined.append((offset, length))
        self.ranges = joined
        self.held[lease.owner] -= lease.size
        if not self.held[lease.owner]:
            del self.held[lease.owner]

    @property
    def used(self) -> int:
        """Bytes leased now."""
        return self.size - sum(length for _, length in self.ranges)

    def close(self) -> None:
        """Give the memory back to the system."""
        self.memory.release()
        self.mapping.close()
        os.close(self.fd)


def _anonymous_file(size: int) -> int:
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("farfield-arena")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return fd
