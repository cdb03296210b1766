"""Batch axes for tests: which axes each argument has, and arrays that have them."""

from __future__ import annotations

import numpy as np

from farfield_kernels.arguments import numpy_dtype
from farfield_kernels.expr import Array

Batch = tuple[int, ...]

# Batch axes of x (i), y (j), b (j) and p (a parameter).
BATCHES: dict[str, tuple[Batch, Batch, Batch, Batch]] = {
    "all the same": ((2, 3), (2, 3), (2, 3), (2, 3)),
    "x alone": ((3,), (), (), ()),
    "y alone": ((), (2, 2), (), ()),
    "p alone": ((), (), (), (4,)),
    "each another": ((2, 1), (3,), (1, 1), ()),
    "crossed": ((1, 3), (2, 1), (3,), (2, 3)),
    "axes of one": ((1,), (1, 1), (), (1,)),
    "three axes": ((2, 1, 2), (3, 1), (1, 1, 1), (2, 1, 1)),
    "none": ((0,), (), (), ()),
    "none of many": ((2, 0, 1), (1,), (), (3,)),
}


def drawn(batches: tuple[Batch, ...], rows: int, cols: int, dtype: str = "float64", seed: int = 0) -> list[Array]:
    """Arguments of the formula of the checks, exact in every float type."""
    rng = np.random.default_rng(seed)
    shapes = ((rows, 2), (cols, 2), (cols, 1), (2,))
    found = [rng.integers(-8, 9, (*batch, *shape)) / 4 for batch, shape in zip(batches, shapes, strict=True)]
    return [array.astype(numpy_dtype(dtype)) for array in found]
