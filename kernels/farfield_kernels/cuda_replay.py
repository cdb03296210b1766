"""A small call that is made again -> a CUDA graph: copy up, kernels and copy down by one call of the driver.

The first call of a kind is as any other, the second is captured, later ones are replayed over the same pinned and
device memory. A kind is a plan for types and shapes: its offset tables never change, ranges and calls whose sums
separate have none. A call that cannot be captured stays as it is. What is kept is bounded, the oldest goes first.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from .cuda_errors import typed
from .cuda_memory import CudaMemory, Lane
from .cuda_passage import CudaPassage
from .errors import FarfieldError
from .expr import Array

# No device was at hand to measure any of these.
REPLAYED_BYTES = 2**20  # of arguments and results; above, copies take longer than enqueuing them
MAX_STEPS = 1e9  # scalar operations; above, kernels do
LEAST_PART_S = 0.01  # a call that is to stop more often is never one piece
KEPT_BYTES = 2**26  # of the device, by all graphs together
MAX_KEPT = 256  # kinds that are known

ALIGNMENT = 256  # bytes between arguments

log = logging.getLogger("farfield.cuda")

Enqueue = Callable[[CudaPassage], None]


class CapturedPassage(CudaPassage):
    """A call whose copies and kernels become a graph: nothing is timed, all memory is pinned and stays."""

    def mark(self) -> None:
        """No moment: events of a graph cannot be asked for."""

    def put(self, array: Array) -> Any:
        """A copy on the device, made anew in each replay from a block that is kept."""
        staged = self.staged(array.shape, array.dtype)
        staged[...] = array
        return super().put(staged)

    def _arguments(self) -> list[Any]:
        """All arguments as one block, which one copy brings up."""
        places, size = [], 0
        for array in self.inputs:
            places.append(size)
            size += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        block = self.staged((size,), np.dtype("uint8"))
        on_device = self.empty((size,), np.dtype("uint8"))
        self._copy_up(on_device, block, self.stream)
        self.sources = [
            np.ndarray(array.shape, array.dtype, block, place)
            for array, place in zip(self.inputs, places, strict=True)
        ]
        return [
            self.cupy.ndarray(array.shape, array.dtype, memptr=on_device.data + place)
            for array, place in zip(self.inputs, places, strict=True)
        ]

    def _landing(self, written: Any, result: Array, *, is_direct: bool) -> tuple[Array, bool]:
        """All outputs come down into blocks that are kept."""
        return self.staged(written.shape, written.dtype), False


class Replay:
    """One kind of call, captured.

    Args:
        memory: of the device.
        inputs: arguments of that kind.
        enqueue: starts all copies and kernels of the call.
    """

    def __init__(self, memory: CudaMemory, inputs: Sequence[Array], enqueue: Enqueue) -> None:
        with memory.device:
            self.lane = Lane(memory.cupy)  # for good: its blocks belong to its streams
        self.memory, self.lock = memory, threading.Lock()
        self.passage = CapturedPassage(memory, self.lane, inputs)
        compute = self.lane.compute
        compute.begin_capture()
        try:
            self.passage.begin()
            enqueue(self.passage)
            self.passage.join()
        except BaseException:
            with contextlib.suppress(Exception):  # ends the capture, which is spoilt
                compute.end_capture()
            raise
        self.graph = compute.end_capture()
        self.bytes = sum(held.nbytes for held in self.passage.held if hasattr(held, "nbytes"))
        del self.passage.inputs

    def __call__(self, inputs: Sequence[Array], timing: Any) -> list[tuple[Array, int]]:
        """Compute; what results are made of and their places, good until the next replay."""
        begun = time.perf_counter()
        for source, array in zip(self.passage.sources, inputs, strict=True):
            source[...] = array
        copied = time.perf_counter()
        with self.memory.device:
            self.graph.launch(self.lane.compute)
        self.lane.compute.synchronize()
        timing.h2d_ms, timing.kernel_ms = (copied - begun) * 1e3, (time.perf_counter() - copied) * 1e3
        return self.passage.settled


class Replays:
    """The kinds of calls that were met, and the graphs of those that were met again.

    Args:
        memory: of the device.
    """

    def __init__(self, memory: CudaMemory) -> None:
        self.memory, self.lock = memory, threading.Lock()
        self.kept: OrderedDict[Hashable, Replay | None] = OrderedDict()  # None: met once, or cannot be captured
        self.refused: set[Hashable] = set()

    def find(self, kind: Hashable, inputs: Sequence[Array], enqueue: Enqueue) -> Replay | None:
        """The graph of a kind that was met before; None the first time, and where there can be none.

        It is captured now if there is none yet.
        """
        with self.lock:
            replay = self.kept.get(kind)
            if replay is None and kind in self.kept and kind not in self.refused:
                replay = self._captured(kind, inputs, enqueue)
            self.kept[kind] = replay
            self.kept.move_to_end(kind)
            while len(self.kept) > MAX_KEPT or self._bytes() > KEPT_BYTES:
                oldest, _ = self.kept.popitem(last=False)
                self.refused.discard(oldest)
        return replay

    def _bytes(self) -> int:
        return sum(replay.bytes for replay in self.kept.values() if replay)

    def _captured(self, kind: Hashable, inputs: Sequence[Array], enqueue: Enqueue) -> Replay | None:
        try:
            return Replay(self.memory, inputs, enqueue)
        except Exception as error:
            found = typed(error) or error
            if not isinstance(found, FarfieldError) or getattr(found, "is_lost", False):
                raise
            log.warning("a call is not replayed as a graph: %s", found)
            self.refused.add(kind)
            return None

    def clear(self) -> None:
        """Give up the memory of all graphs."""
        self.kept.clear()
