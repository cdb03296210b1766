"""A CUDA device as a back end: kernels, calls in one piece or in slices, and small ones that are replayed."""

from __future__ import annotations

import functools
from collections.abc import Collection, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from .build import import_cupy
from .cuda_errors import device_errors
from .cuda_launch import CudaKernel
from .cuda_memory import CudaMemory
from .cuda_passage import CudaPassage, Slices
from .cuda_replay import LEAST_PART_S, MAX_STEPS, REPLAYED_BYTES, Enqueue, Replay, Replays
from .expr import Array
from .launch import Launch
from .schedule import block_rows
from .stages import Emitted

# Bytes of rows and results that are copied at a time: 0.2 ms of a PCIe 4 bus by its data sheet, a hundred times
# what it takes to enqueue a copy, a kernel and two events. Not measured.
SLICE_BYTES = 4 * 2**20
MAX_SLICES = 8  # the last one has nothing to overlap with: an eighth of the copies


@functools.lru_cache(maxsize=512)
def _cuda_kernels(kernels: tuple[Emitted, ...], device: int) -> tuple[CudaKernel, ...]:
    """Compiled kernels, loaded on the current device, which has that number."""
    return tuple(CudaKernel(*emitted.parts) for emitted in kernels)


class Cuda:
    """CUDA kernels on one device.

    Args:
        number: of the device.
    """

    is_host = False

    def __init__(self, number: int) -> None:
        self.memory = CudaMemory(number)
        self.replays = Replays(self.memory)
        self.memory.spare = self.replays.clear
        self.pin = self.memory.pin

    @property
    def guard(self) -> AbstractContextManager[None]:
        """Exceptions of CuPy leave as typed ones."""
        return device_errors()

    def build(self, kernels: tuple[Emitted, ...]) -> Sequence[Any]:
        """Compiled kernels."""
        with self.memory.device:
            return _cuda_kernels(kernels, self.memory.device.id)

    def open(self, inputs: Sequence[Array], slices: Slices | None = None) -> CudaPassage:
        """Begin a call."""
        return CudaPassage(self.memory, self.memory.lane(), inputs, slices)

    def replay(
        self,
        kind: Hashable,
        inputs: Sequence[Array],
        result_bytes: int,
        steps: float,
        part_s: float,
        enqueue: Enqueue,
    ) -> Replay | None:
        """The graph of a call, if it is small and was made before.

        Args:
            kind: the same for all calls that differ in the values of their arguments alone.
            inputs: the arguments.
            result_bytes: of all results.
            steps: scalar operations.
            part_s: seconds after which the call would stop.
            enqueue: starts all copies and kernels of the call.
        """
        moved = result_bytes + sum(array.nbytes for array in inputs)
        if moved > REPLAYED_BYTES or steps > MAX_STEPS or part_s < LEAST_PART_S:
            return None
        return self.replays.find(kind, inputs, enqueue)

    def slices(
        self, launch: Launch, positions: Collection[int], inputs: Sequence[Array], results: Sequence[Array]
    ) -> Slices | None:
        """The pieces of a call with one kernel whose results are rows, if copying them side by side pays.

        Args:
            launch: all of the call.
            positions: arguments that have a row for each row of the results.
            inputs: all arguments.
            results: what the kernel's outputs become, (rows, width) each.
        """
        in_rows = [*(inputs[position] for position in positions), *results]
        count = min(MAX_SLICES, sum(array.nbytes for array in in_rows) // SLICE_BYTES)
        is_split = launch.units != launch.extent.row_blocks(launch.kernel.schedule)
        if is_split or count < 2 or not all(map(self.memory.is_pinned, (*inputs, *results))):
            return None
        units = -(-launch.units // count // launch.workers) * launch.workers
        if units >= launch.units:
            return None
        ends = (*range(units, launch.units, units), launch.units)
        unit_rows = block_rows(launch.kernel.schedule)
        return Slices(ends, unit_rows, launch.extent.rows, frozenset(positions), tuple(results))


@functools.cache
def _device(number: int) -> Cuda:
    return Cuda(number)


def current_cuda() -> Cuda:
    """The current device of this thread."""
    with device_errors():
        return _device(import_cupy().cuda.Device().id)


def use_cuda(number: int) -> None:
    """Make a device current for this thread: that number, counted round if there are fewer."""
    cupy = import_cupy()
    cupy.cuda.Device(number % cupy.cuda.runtime.getDeviceCount()).use()
