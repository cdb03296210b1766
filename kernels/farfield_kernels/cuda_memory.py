"""One CUDA device's memory and streams: a bounded pool, pinned host memory, and the lanes that calls run in.

Everything is of our own, so that a program that uses CuPy beside Farfield keeps its pool, limit and streams.
CuPy's pool gives a block back to the stream that it was taken on, and does not look for room among its idle blocks
when its own limit is met: that is done here, once, together with the graphs that are kept.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from .build import import_cupy
from .errors import DeviceError
from .expr import Array

FRACTION = 0.9  # of the device's memory, unless `FARFIELD_DEVICE_MEMORY_BYTES` says otherwise
SMALLEST_BLOCK = 512  # bytes of pinned memory; sizes are powers of two, so that there are few of them

log = logging.getLogger("farfield.cuda")


def memory_limit() -> dict[str, float | int]:
    """What `FARFIELD_DEVICE_MEMORY_BYTES` allows, as CuPy's pool takes it; 0 or nothing is `FRACTION` of all.

    Raises:
        DeviceError: the setting is no number of bytes.
    """
    asked = os.environ.get("FARFIELD_DEVICE_MEMORY_BYTES") or "0"
    if not asked.isdecimal():
        raise DeviceError(f"FARFIELD_DEVICE_MEMORY_BYTES is '{asked}', a number of bytes is needed")
    return {"size": int(asked)} if int(asked) else {"fraction": FRACTION}


class Lane:
    """The streams of one call; none waits for the device's default stream."""

    def __init__(self, cupy: Any) -> None:
        self.streams = tuple(cupy.cuda.Stream(non_blocking=True) for _ in range(4))
        self.compute, self.beside, self.up, self.down = self.streams


class CudaMemory:
    """Memory and streams of one device.

    Args:
        number: of the device.

    Attributes:
        spare: called when memory is short, to give up what can be made again.
    """

    def __init__(self, number: int) -> None:
        self.cupy = import_cupy()
        self.device = self.cupy.cuda.Device(number)
        self.pool, self.staging = self.cupy.cuda.MemoryPool(), self.cupy.cuda.PinnedMemoryPool()
        with self.device:
            self.pool.set_limit(**memory_limit())
        self.lanes: list[Lane] = []
        self.pinned: list[tuple[int, int]] = []
        self.spare: Callable[[], None] = lambda: None

    @property
    def limit_bytes(self) -> int:
        """What calls may take together."""
        with self.device:
            return int(self.pool.get_limit())

    # -- of the device

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any], stream: Any) -> Any:
        """An array on the device, whose memory is given back to that stream.

        Raises:
            cupy's OutOfMemoryError: there is no room, also not after what is idle was given up.
        """
        size = math.prod(shape) * dtype.itemsize
        with self.device, stream:
            try:
                memory = self.pool.malloc(size)
            except MemoryError:
                self.spare()
                self.pool.free_all_blocks()
                memory = self.pool.malloc(size)
        return self.cupy.ndarray(shape, dtype, memptr=memory)

    # -- of the host

    def pin(self, memory: memoryview) -> None:
        """Register memory that lives as long as the process, so that copies from and to it are asynchronous."""
        place = np.frombuffer(memory, np.uint8)
        begin = int(place.ctypes.data)
        try:
            with self.device:
                self.cupy.cuda.runtime.hostRegister(begin, place.nbytes, 0)
        except self.cupy.cuda.runtime.CUDARuntimeError as error:
            log.warning("%d bytes of shared memory cannot be pinned (%s): copies take longer", place.nbytes, error)
        else:
            self.pinned.append((begin, begin + place.nbytes))

    def is_pinned(self, array: Array) -> bool:
        """Whether all of a contiguous array lies in memory that was pinned."""
        begin = array.ctypes.data
        return any(first <= begin and begin + array.nbytes <= end for first, end in self.pinned)

    def staged(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Any, Array]:
        """A pinned block, to be held as long as it is used, and an array in it."""
        count = math.prod(shape)
        size = max(SMALLEST_BLOCK, count * dtype.itemsize)
        with self.device:
            block = self.staging.malloc(1 << (size - 1).bit_length())
        return block, np.frombuffer(block, dtype, count).reshape(shape)

    # -- streams

    def lane(self) -> Lane:
        """Streams that nobody else uses until they are given back."""
        with contextlib.suppress(IndexError):
            return self.lanes.pop()
        with self.device:
            return Lane(self.cupy)

    def give_back(self, lane: Lane) -> None:
        """A lane that is empty."""
        self.lanes.append(lane)

    def drain(self, lane: Lane) -> None:
        """Until nothing is under way in a lane, whatever becomes of it."""
        for stream in lane.streams:
            with contextlib.suppress(Exception):  # it was reported before, or the device is lost
                stream.synchronize()
