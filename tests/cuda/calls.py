"""Calls of every kind that a CUDA device treats differently, on memory that is pinned or is not."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from farfield_kernels import engine
from farfield_kernels.arguments import check_arguments, result_shapes
from farfield_kernels.cuda_device import current_cuda
from farfield_kernels.expr import Array
from farfield_kernels.operation import Spec, read
from kernels.batch_cases import BATCHES, drawn
from kernels.range_cases import FEW, FEW_BLOCKS, six_arrays

SEED = Spec("Square(p-a)*Exp(x+y)", ("x = Vi(3)", "y = Vj(3)", "a = Vj(1)", "p = Pm(1)"), separation="off")
GAUSS = Spec("Exp(-SqDist(x,y))*b", ("x = Vi(3)", "y = Vj(3)", "b = Vj(1)"), separation="off")
SEPARATED = Spec(SEED.formula, SEED.variables, separation="on")
SEED_VJP = SEED.vjp((0, 1, 2, 3))


@dataclass
class Call:
    """A spec and its arguments."""

    name: str
    spec: Spec
    arrays: list[Array]
    ranges: Sequence[Array] | None = None

    def results(self) -> list[Array]:
        """Room for what it returns."""
        operation = read(self.spec)
        sizes = check_arguments(operation, [a.dtype.name for a in self.arrays], [a.shape for a in self.arrays])
        return [
            np.full(shape, -7, slot.dtype(sizes.dtype))
            for slot, shape in zip(operation.results, result_shapes(operation, sizes), strict=True)
        ]

    def run(self, part_s: float = math.inf) -> list[Array]:
        """Compute it on the device."""
        out = self.results()
        parts = engine.run_in_parts(
            self.spec, self.arrays, device="cuda", out=out, ranges=self.ranges, part_s=part_s
        )
        for _ in parts:
            pass
        return out


@dataclass
class Arena:
    """Shared memory, as a worker has it."""

    memory: memoryview = field(default_factory=lambda: memoryview(mmap.mmap(-1, 2**25)))
    end: int = 0

    def placed(self, array: Array) -> Array:
        """A copy in it."""
        place = np.ndarray(array.shape, array.dtype, self.memory, self.end)
        place[...] = array
        self.end += -(-array.nbytes // 64) * 64
        assert self.end <= len(self.memory)
        return place


@dataclass
class ArenaCall(Call):
    """One whose arrays lie in an arena."""

    arena: Arena = field(default_factory=Arena)
    start: int = 0

    def results(self) -> list[Array]:
        """Room in the arena, the same each time."""
        self.arena.end = self.start
        return [self.arena.placed(result) for result in super().results()]


def in_arena(call: Call, arena: Arena | None = None) -> ArenaCall:
    """The same call with its arrays in pinned memory."""
    if arena is None:
        arena = Arena()
        current_cuda().pin(arena.memory)
    arrays = [arena.placed(array) for array in call.arrays]
    return ArenaCall(call.name, call.spec, arrays, call.ranges, arena, arena.end)


def uniform(*shapes: tuple[int, ...]) -> list[Array]:
    """Numbers in [0.2, 1]."""
    rng = np.random.default_rng(0)
    return [rng.uniform(0.2, 1, shape).astype("float32") for shape in shapes]


def gauss(M: int, N: int) -> Call:
    """One kernel, whose results are rows."""
    return Call("rows", GAUSS, uniform((M, 3), (N, 3), (N, 1)))


def gradients(M: int, N: int) -> Call:
    """Several kernels, one of them with a sum over rows."""
    return Call("gradients", SEED_VJP, uniform((M, 3), (N, 3), (N, 1), (1,), (M, 3)))


def calls() -> Iterator[Call]:
    """Small ones of all kinds."""
    M, N = 70, 90
    yield gauss(M, N)
    yield gradients(M, N)
    over_all = Spec(GAUSS.formula, GAUSS.variables, axis=None)
    yield Call("over both axes", over_all, uniform((M, 3), (N, 3), (N, 1)))
    yield Call("separated", SEPARATED, uniform((M, 3), (N, 3), (N, 1), (1,)))
    arrays = uniform((M, 3), (N, 3), (N, 1), (1,), (M, 3))
    yield Call("gradients, separated", SEPARATED.vjp((0, 1, 2, 3)), arrays)
    weighted = Spec("Exp(-SqDist(x,y))*b*(p|p)", ("x = Vi(2)", "y = Vj(2)", "b = Vj(1)", "p = Pm(2)"))
    yield Call("batch", weighted, drawn(BATCHES["crossed"], *FEW))
    yield Call("ranges", weighted, drawn(((), (), (), ()), *FEW), six_arrays(FEW_BLOCKS, FEW[1]))
    arrays = drawn(BATCHES["each another"], *FEW)
    (result,) = Call("", weighted, arrays).results()
    cotangent = np.full(result.shape, 0.5, result.dtype)
    yield Call("gradients of a batch", weighted.vjp((0, 1, 2, 3)), [*arrays, cotangent])
