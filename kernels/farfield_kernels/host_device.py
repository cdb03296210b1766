"""The host as a back end: kernels that read and write NumPy arrays as they are, compiled or of NumPy calls."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from .blocks import NumpyKernel
from .expr import Array
from .launch import CpuKernel, Launch, thread_count
from .stages import Emitted

NOWHERE = contextlib.nullcontext()


@functools.lru_cache(maxsize=512)
def _cpu_kernels(kernels: tuple[Emitted, ...]) -> tuple[CpuKernel, ...]:
    """Compiled kernels; those of one stage are compiled at the same time."""
    if len(kernels) == 1:
        return (CpuKernel(*kernels[0].parts),)
    with ThreadPoolExecutor(min(len(kernels), thread_count())) as pool:
        return tuple(pool.map(lambda emitted: CpuKernel(*emitted.parts), kernels))


@functools.lru_cache(maxsize=512)
def _numpy_kernels(kernels: tuple[Emitted, ...]) -> tuple[NumpyKernel, ...]:
    return tuple(NumpyKernel(*emitted.parts) for emitted in kernels)


class Host:
    """CPU kernels."""

    is_host = True
    guard = NOWHERE  # no exceptions are translated

    def build(self, kernels: tuple[Emitted, ...]) -> Sequence[Any]:
        """Compiled kernels."""
        return _cpu_kernels(kernels)

    def pin(self, memory: memoryview) -> None:
        """Make copies from and to some memory fast: there are none."""

    def open(self, inputs: Sequence[Array], slices: Any = None) -> HostPassage:
        """Begin a call."""
        return HostPassage(inputs)


class Numpy(Host):
    """Kernels of NumPy calls, for a host without a compiler."""

    def build(self, kernels: tuple[Emitted, ...]) -> Sequence[Any]:
        """Kernels, of which nothing is compiled."""
        return _numpy_kernels(kernels)


@dataclass(frozen=True)
class Target:
    """What an output of a kernel is written to.

    Args:
        place: number of the result.
        shape, dtype: of the array that the kernel writes.
        is_sum: whether its rows are to be summed.
        is_direct: whether that array is the result.
    """

    place: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_sum: bool
    is_direct: bool


class HostPassage:
    """Arguments and results of one call, which are where kernels read and write them; see cuda_passage.py."""

    def __init__(self, inputs: Sequence[Array]) -> None:
        self.arguments = inputs
        self.begun = self.copied = time.perf_counter()
        self.settled: list[tuple[Array, int]] = []

    def __enter__(self) -> HostPassage:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is under way."""

    @staticmethod
    def between(begin: float, end: float) -> float:
        """Milliseconds from one moment to another."""
        return (end - begin) * 1e3

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Memory for what a kernel writes."""
        return np.empty(shape, dtype)

    def get(self, written: Array) -> Array:
        """What a kernel wrote, at once."""
        return written

    def total(self, written: Array) -> float:
        """The sum of what a kernel wrote, (1, rows, 1), at once."""
        return float(written.sum())

    def beside(self, place: int) -> contextlib.AbstractContextManager[None]:
        """Where the stage at a place runs: next to the others, if the device can."""
        return NOWHERE

    def compute(
        self, launch: Launch, inputs: Sequence[Array], outputs: Sequence[Array], memory: Any, first: int, end: int
    ) -> None:
        """Units of a launch."""
        launch.run(inputs, outputs, memory, first, end)

    def take(self, written: Sequence[Array], targets: Sequence[Target], results: Sequence[Array]) -> None:
        """Have results made of what a stage wrote."""
        for array, target in zip(written, targets, strict=True):
            if target.is_sum:
                self.settled.append((array.sum(1), target.place))
            elif not target.is_direct:
                self.settled.append((array, target.place))

    def wait(self) -> None:
        """Until all that was started is done."""

    def finish(self) -> list[tuple[Array, int]]:
        """Until results are there; those that are still to be made of what kernels wrote, and their places."""
        self.computed = self.ended = time.perf_counter()
        return self.settled
