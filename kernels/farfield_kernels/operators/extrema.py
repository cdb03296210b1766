"""Selection among the components of one vector: extrema, their places, one-hot vectors, softmax.

NaN wins over every number, and of equal components the first is taken, as in NumPy.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..domains import REAL, Array, Case, Domain
from ..errors import RuleError
from ..expr import Core, Emit, Expr, apply, declare
from .comparison import LARGER, SMALLER, where
from .kinds import Dims, Params, derived

_BEATS = {LARGER: ">", SMALLER: "<"}
APART = Domain(-2.0, 2.0, apart=True)
FOLDED_CASES = (Case((1,)), Case((4,)))


def _folded(emit: Emit, code: str, scalars: list[int]) -> int:
    best, *rest = scalars
    for scalar in rest:
        best = emit(code, best, scalar)
    return best


def _place(emit: Emit, code: str, scalars: list[int]) -> int:
    best, *rest = scalars
    place = emit("K(0)")
    for k, scalar in enumerate(rest, start=1):
        # A number is beaten by a better one and by NaN; NaN by nothing.
        wins = f"($a {_BEATS[code]} $b) | (($a != $a) & ($b == $b)) ? K({k}) : $c"
        place = emit(wins, scalar, best, place)
        best = emit(code, best, scalar)
    return place


def _selected(name: str, g: Expr, a: Expr) -> tuple[Expr | None, ...]:
    return (where(apply("OneHot", apply(name, a), a.dim), g, 0),)


def _extremum(name: str, doc: str, code: str, best: Callable[..., Array], place: Callable[..., Array]) -> None:
    declare(
        Core(
            name=name,
            doc=f"the {doc} component of a; NaN wins; its gradient goes to the first of equal ones",
            arity=1,
            reference=lambda a: best(a, -1, keepdims=True),
            domain=APART,
            cases=FOLDED_CASES,
            dim=lambda dims, params: 1,
            lower=lambda emit, operands, dim, params: [_folded(emit, code, operands[0])],
            vjp=lambda g, y, a: _selected(f"Arg{name}", g, a),
        )
    )
    declare(
        Core(
            name=f"Arg{name}",
            doc=f"number of the {doc} component of a, from 0; the first of equal ones",
            arity=1,
            reference=lambda a: place(a, -1, keepdims=True),
            domain=APART,
            cases=FOLDED_CASES,
            dim=lambda dims, params: 1,
            lower=lambda emit, operands, dim, params: [_place(emit, code, operands[0])],
            vjp=lambda g, y, a: (None,),
        )
    )


_extremum("Max", "largest", LARGER, np.max, np.argmax)
_extremum("Min", "smallest", SMALLER, np.min, np.argmin)


def _lower_one_hot(emit: Emit, operands: list[list[int]], dim: int, params: Params) -> list[int]:
    ((scalar,),) = operands
    nearest = emit("floor($a + K(0.5))", scalar)
    return [emit(f"$a == K({k}) ? K(1) : $a == $a ? K(0) : $a", nearest) for k in range(dim)]


def _one_hot_dim(dims: Dims, params: Params) -> int:
    if dims[0] != 1:
        raise RuleError(f"marks the place that a scalar names, its operand has dim {dims[0]}")
    return int(params[0])


declare(
    Core(
        name="OneHot",
        doc="a vector of dim d that is 1 at component a (rounded) and 0 elsewhere; all 0 if a is outside 0..d-1",
        arity=1,
        integers=("d",),
        reference=lambda a, d: (np.floor(a + 0.5) == np.arange(d)) + 0 * a,
        domain=Domain(-1.5, 4.5, grid=0.5),
        cases=(Case((1,), (4,)), Case((1,), (1,))),
        dim=_one_hot_dim,
        lower=_lower_one_hot,
        vjp=lambda g, y, a, d: (None,),
    )
)


def _lower_softmax(emit: Emit, operands: list[list[int]], dim: int, params: Params) -> list[int]:
    largest = _folded(emit, LARGER, operands[0])
    powers = [emit("exp($a - $b)", scalar, largest) for scalar in operands[0]]
    total = _folded(emit, "$a + $b", powers)
    return [emit("$a / $b", power, total) for power in powers]


def _softmax_reference(a: Array) -> Array:
    powers = np.exp(a - a.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


declare(
    Core(
        name="Softmax",
        doc="e to the power a, divided by the sum of its components, without overflow",
        arity=1,
        reference=_softmax_reference,
        domain=REAL,
        cases=FOLDED_CASES,
        dim=lambda dims, params: dims[0],
        lower=_lower_softmax,
        vjp=lambda g, y, a: (y * (g - apply("Scalprod", g, y)),),
    )
)

derived(
    "NormInf",
    "largest absolute value of the components of a",
    lambda a: apply("Max", apply("Abs", a)),
    reference=lambda a: np.abs(a).max(-1, keepdims=True),
    cases=(Case((4,)),),
    domain=Domain(-3.0, 1.0, apart=True),
)
