"""Constants, and the numbers of the row and of the column."""

from __future__ import annotations

import numpy as np

from ..domains import Case
from ..errors import RuleError
from ..expr import INDEX_SHIFT, Axis, Expr, apply, constant, index
from .kinds import derived


def _ratio(p: int, q: int) -> Expr:
    if q == 0:
        raise RuleError(f"{p} / 0 is not a number")
    return constant(p / q)


def _number(axis: Axis) -> Expr:
    return apply("Add", index(axis, "high") * 2**INDEX_SHIFT, index(axis, "low"))


def _integer(n: int) -> Expr:
    return constant(n)


def _zero(d: int) -> Expr:
    return constant(0.0) if d == 1 else apply("SumT", constant(0.0), d)


# fmt: off
derived("IntCst", "the integer n as a scalar",
        _integer,
        integers=("n",), reference=lambda n: np.array([float(n)]), cases=(Case((), (3,)), Case((), (-2,))))

derived("IntInv", "1 / n for an integer n, as a scalar",
        lambda n: _ratio(1, n),
        integers=("n",), reference=lambda n: np.array([1 / n]), cases=(Case((), (3,)), Case((), (-2,))))

derived("RatCst", "p / q for integers p and q, as a scalar",
        _ratio,
        integers=("p", "q"), reference=lambda p, q: np.array([p / q]), cases=(Case((), (2, 3)), Case((), (-5, 4))))

derived("Zero", "the zero vector of dim d",
        _zero,
        integers=("d",), reference=np.zeros, cases=(Case((), (1,)), Case((), (3,))))

derived("I", "number of the row, from 0: i; exact up to 2**24 in float32 and 2**53 in float64",
        lambda: _number("i"),
        arity=0, reference=lambda: np.arange(0.0), cases=())

derived("J", "number of the column, from 0: j; exact up to 2**24 in float32 and 2**53 in float64",
        lambda: _number("j"),
        arity=0, reference=lambda: np.arange(0.0), cases=())
# fmt: on
