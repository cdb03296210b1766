"""The workloads that every benchmark and every peer computes, from one seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Workload:
    """A reduction, or its gradient with respect to the arguments `wrt`."""

    name: str
    formula: str
    aliases: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    wrt: tuple[int, ...] = ()
    dtype: str = "float32"

    def arrays(self) -> list[Array]:
        """Normal draws, the same in every process."""
        rng = np.random.default_rng(0)
        return [rng.standard_normal(shape).astype(self.dtype) for shape in self.shapes]

    def cotangent(self, shape: tuple[int, ...]) -> Array:
        """Uniform draws of the result's shape."""
        return np.random.default_rng(1).random(shape).astype(self.dtype)


M, N = 3000, 5000
SEED = (
    "Square(p-a)*Exp(x+y)",
    ("x = Vi(3)", "y = Vj(3)", "a = Vj(1)", "p = Pm(1)"),
    ((M, 3), (N, 3), (N, 1), (1,)),
)

WORKLOADS = (
    Workload("seed forward", *SEED),
    Workload("seed gradient in y", *SEED, wrt=(1,)),
    Workload("seed all gradients", *SEED, wrt=(0, 1, 2, 3)),
    Workload("seed forward float64", *SEED, dtype="float64"),
)


def by_name(name: str) -> Workload:
    """The workload called `name`."""
    return next(workload for workload in WORKLOADS if workload.name == name)
