"""The workloads that every benchmark and every peer computes, from one seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
ROWS = 1000  # of a result, that are compared with NumPy: of 64, the errors say more about those 64
PAIRS = 30_000_000  # that NumPy holds at most


@dataclass(frozen=True)
class Workload:
    """A reduction, or its gradient with respect to the arguments `wrt`.

    Args:
        dense: float64 arguments -> the first `ROWS` rows of the (first) result, by NumPy; of a gradient, the
            cotangent comes last.
        scales: by argument, what its normal draws are multiplied by.
    """

    name: str
    formula: str
    aliases: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dense: Callable[..., Array]
    reduction: str = "Sum"
    K: int | None = None
    weights: str | None = None
    wrt: tuple[int, ...] = ()
    dtype: str = "float32"
    scales: dict[int, float] = field(default_factory=dict)
    axis: int = 1

    def arrays(self) -> list[Array]:
        """Normal draws, those of a parameter positive; the same in every process."""
        rng = np.random.default_rng(0)
        arrays = [rng.standard_normal(shape) * self.scales.get(k, 1.0) for k, shape in enumerate(self.shapes)]
        positive = [np.abs(array) if array.ndim == 1 else array for array in arrays]
        return [array.astype(self.dtype) for array in positive]

    def cotangent(self, shape: tuple[int, ...]) -> Array:
        """Uniform draws of the result's shape."""
        return np.random.default_rng(1).random(shape).astype(self.dtype)

    @property
    def words(self) -> dict[str, Any]:
        """What `Genred` is called with besides formula and aliases, here and in pykeops."""
        words: dict[str, Any] = {"reduction_op": self.reduction, "axis": self.axis}
        if self.K is not None:
            words["opt_arg"] = self.K
        if self.weights is not None:
            words["formula2"] = self.weights
        return words

    def exact(self, shape: tuple[int, ...]) -> Array:
        """The first rows of the result in float64; `shape` is that of the forward result."""
        arrays = [array.astype(np.float64) for array in self.arrays()]
        if self.wrt:
            arrays.append(self.cotangent(shape).astype(np.float64))
        with np.errstate(all="ignore"):
            return np.asarray(self.dense(*arrays))


def distances(x: Array, y: Array) -> Array:
    """Squared distances of the rows, of which there may be many."""
    return np.stack([((row - y) ** 2).sum(1) for row in x])


def _seed(x: Array, y: Array, a: Array, p: Array) -> Array:
    rows = x[: min(ROWS, PAIRS // len(y))]
    return np.einsum("j,ijd->id", ((p - a) ** 2)[:, 0], np.exp(rows[:, None] + y[None]))


def _seed_by_y(x: Array, y: Array, a: Array, p: Array, e: Array) -> Array:
    return ((p - a) ** 2)[:ROWS] * np.einsum("id,jid->jd", e, np.exp(y[:ROWS, None] + x[None]))


def _seed_by_x(x: Array, y: Array, a: Array, p: Array, e: Array) -> Array:
    return e[:ROWS] * _seed(x, y, a, p)


def _gaussian(x: Array, y: Array, b: Array, g: Array) -> Array:
    return np.exp(-g * distances(x[:ROWS], y)) @ b


def _gaussian_by_x(x: Array, y: Array, b: Array, g: Array, e: Array) -> Array:
    weights = np.exp(-g * distances(x[:ROWS], y)) * (e[:ROWS] * b[:, 0])
    return np.einsum("ij,ijd->id", weights, -2 * g * (x[:ROWS, None] - y[None]))


def _attention(x: Array, y: Array, v: Array) -> Array:
    scores = x[:ROWS] @ y.T
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers @ v / powers.sum(1, keepdims=True)


def _logsumexp(x: Array, y: Array) -> Array:
    scores = -distances(x[:ROWS], y)
    top = scores.max(1, keepdims=True)
    return np.log(np.exp(scores - top).sum(1, keepdims=True)) + top


def gaussian(name: str, M: int, N: int, D: int, Dv: int = 1, **words: Any) -> Workload:
    """Exp(-g*SqDist(x,y))*b, with g of about 1 / D."""
    aliases = (f"x = Vi({D})", f"y = Vj({D})", f"b = Vj({Dv})", "g = Pm(1)")
    shapes = ((M, D), (N, D), (N, Dv), (1,))
    words = {"dense": _gaussian} | words
    return Workload(name, "Exp(-g*SqDist(x,y))*b", aliases, shapes, scales={3: 1.0 / D}, **words)


M, N = 3000, 5000
SEED = (
    "Square(p-a)*Exp(x+y)",
    ("x = Vi(3)", "y = Vj(3)", "a = Vj(1)", "p = Pm(1)"),
    ((M, 3), (N, 3), (N, 1), (1,)),
)
POINTS = {D: (f"x = Vi({D})", f"y = Vj({D})") for D in (3, 10)}

WORKLOADS = (
    Workload("seed forward", *SEED, _seed),
    Workload("seed gradient in y", *SEED, _seed_by_y, wrt=(1,)),
    gaussian("Gauss D3", 10_000, 10_000, 3),
    gaussian("Gauss D3 v16", 10_000, 10_000, 3, 16),
    gaussian("Gauss D10", 10_000, 10_000, 10),
    gaussian("Gauss D64", 10_000, 10_000, 64),
    gaussian("Gauss D256", 10_000, 10_000, 256),
    gaussian("Gauss M=10 N=1e6", 10, 1_000_000, 3),
    gaussian("Gauss M=1e6 N=10", 1_000_000, 10, 3),
    gaussian("Gauss gradient in x", 10_000, 10_000, 3, dense=_gaussian_by_x, wrt=(0,)),
    Workload("LogSumExp D3", "-SqDist(x,y)", POINTS[3], ((10_000, 3), (10_000, 3)), _logsumexp, "LogSumExp"),
    Workload(
        "attention D64",
        "(x|y)",
        ("x = Vi(64)", "y = Vj(64)", "v = Vj(64)"),
        ((4096, 64),) * 3,
        _attention,
        "SumSoftMaxWeight",
        weights="v",
        scales={0: 0.125},
    ),
    Workload(
        "KMin K10 D10",
        "SqDist(x,y)",
        POINTS[10],
        ((10_000, 10), (10_000, 10)),
        lambda x, y: np.sort(distances(x[:ROWS], y), 1)[:, :10],
        "KMin",
        K=10,
    ),
    Workload(
        "ArgKMin K10 D10",
        "SqDist(x,y)",
        POINTS[10],
        ((10_000, 10), (10_000, 10)),
        lambda x, y: np.argsort(distances(x[:ROWS], y), 1, kind="stable")[:, :10],
        "ArgKMin",
        K=10,
    ),
    Workload(
        "ArgMin 1e5x100 D10",
        "SqDist(x,y)",
        POINTS[10],
        ((100_000, 10), (100, 10)),
        lambda x, y: distances(x[:ROWS], y).argmin(1)[:, None],
        "ArgMin",
    ),
    Workload(
        "Max D3",
        "(x|y)",
        POINTS[3],
        ((10_000, 3), (10_000, 3)),
        lambda x, y: (x[:ROWS] @ y.T).max(1)[:, None],
        "Max",
    ),
    Workload("seed float64", *SEED, _seed, dtype="float64"),
    gaussian("Gauss D3 float64", 10_000, 10_000, 3, dtype="float64"),
)
"""Those of the comparison with every peer."""

OTHERS = (
    Workload("seed all gradients", *SEED, _seed_by_x, wrt=(0, 1, 2, 3)),
    gaussian("Gauss all gradients", 10_000, 10_000, 3, dense=_gaussian_by_x, wrt=(0, 1, 2, 3)),
)
"""Whole backward passes."""

SEPARATED = (
    Workload("seed forward 1e6", *SEED[:2], ((1_000_000, 3), (1_000_000, 3), (1_000_000, 1), (1,)), _seed),
)
"""Sums of finite rank, computed as such; pairs would take the peer an hour."""

BIGGER = (
    Workload("seed 3e4", *SEED[:2], ((30_000, 3), (30_000, 3), (30_000, 1), (1,)), _seed),
    gaussian("Gauss D3 3e4", 30_000, 30_000, 3),
)
"""Calls that take long enough for a server's share to be small."""


def by_name(name: str) -> Workload:
    """The workload called `name`."""
    return next(workload for workload in (*WORKLOADS, *OTHERS, *SEPARATED, *BIGGER) if workload.name == name)
