"""Complex vectors: components interleaved as real part, imaginary part. A complex scalar has dim 2.

Real and imaginary parts are taken apart and put together by three core operators; all others are formulas over
the parts, which broadcast as real vectors do: {2, 2D} -> 2D.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..domains import NONZERO, REAL, Array, Case
from ..errors import RuleError
from ..expr import Core, Expr, apply, broadcast, declare
from .kinds import Dims, Params, derived

ONE = (Case((2,)), Case((6,)))
TWO = (Case((6, 6)), Case((2, 6)), Case((6, 2)), Case((2, 2)))


def _half_dim(dims: Dims, params: Params) -> int:
    if dims[0] % 2:
        raise RuleError(f"a complex vector has an even dim, not {dims[0]}")
    return dims[0] // 2


def parts(a: Expr) -> tuple[Expr, Expr]:
    """Real and imaginary part."""
    return apply("ComplexReal", a), apply("ComplexImag", a)


def interleave(real: Expr, imaginary: Expr) -> Expr:
    """The complex vector of these parts, of equal dims."""
    return apply("Interleave", real, imaginary)


def _zeros(a: Expr) -> Expr:
    return apply("Zero", a.dim)


declare(
    Core(
        name="ComplexReal",
        doc="real part of the complex vector a",
        arity=1,
        reference=lambda a: a[..., ::2],
        domain=REAL,
        cases=ONE,
        dim=_half_dim,
        lower=lambda emit, operands, dim, params: operands[0][::2],
        vjp=lambda g, y, a: (interleave(g, _zeros(g)),),
        linear=((0,),),
    )
)

declare(
    Core(
        name="ComplexImag",
        doc="imaginary part of the complex vector a",
        arity=1,
        reference=lambda a: a[..., 1::2],
        domain=REAL,
        cases=ONE,
        dim=_half_dim,
        lower=lambda emit, operands, dim, params: operands[0][1::2],
        vjp=lambda g, y, a: (interleave(_zeros(g), g),),
        linear=((0,),),
    )
)

declare(
    Core(
        name="Interleave",
        doc="the complex vector with real part a and imaginary part b",
        arity=2,
        reference=lambda a, b: _joined(a + 1j * b),
        domain=REAL,
        cases=(),  # formulas cannot name it; tested through the operators it defines
        dim=lambda dims, params: 2 * broadcast(dims),
        lower=lambda emit, operands, dim, params: [
            part[k % len(part)] for k in range(dim // 2) for part in operands
        ],
        vjp=lambda g, y, a, b: parts(g),
        linear=((0, 1),),
    )
)


def _pairs(a: Array) -> Array:
    return np.asarray(a[..., ::2] + 1j * a[..., 1::2])


def _joined(z: Array) -> Array:
    return np.stack([z.real, z.imag], -1).reshape(*z.shape[:-1], -1)


def _on_pairs(function: Callable[..., Array]) -> Callable[..., Array]:
    return lambda *operands: _joined(np.asarray(function(*map(_pairs, operands)), complex))


def _add(a: Expr, b: Expr) -> Expr:
    (p, q), (r, s) = parts(a), parts(b)
    return a + b if a.dim == b.dim else interleave(p + r, q + s)


def _subtract(a: Expr, b: Expr) -> Expr:
    (p, q), (r, s) = parts(a), parts(b)
    return a - b if a.dim == b.dim else interleave(p - r, q - s)


def _mult(a: Expr, b: Expr) -> Expr:
    (p, q), (r, s) = parts(a), parts(b)
    return interleave(p * r - q * s, p * s + q * r)


def _divide(a: Expr, b: Expr) -> Expr:
    (p, q), (r, s) = parts(a), parts(b)
    square = apply("ComplexSquareAbs", b)
    return interleave((p * r + q * s) / square, (q * r - p * s) / square)


def _square_abs(a: Expr) -> Expr:
    real, imaginary = parts(a)
    return apply("Square", real) + apply("Square", imaginary)


def _exp(a: Expr) -> Expr:
    real, imaginary = parts(a)
    size = apply("Exp", real)
    return interleave(size * apply("Cos", imaginary), size * apply("Sin", imaginary))


def _conj(a: Expr) -> Expr:
    real, imaginary = parts(a)
    return interleave(real, -imaginary)


def _sum(a: Expr) -> Expr:
    real, imaginary = parts(a)
    return interleave(apply("Sum", real), apply("Sum", imaginary))


def _repeat(a: Expr, d: int) -> Expr:
    if a.dim != 2 or d % 2:
        raise RuleError(f"repeats a complex scalar of dim 2 to an even dim; its operand has dim {a.dim}, d is {d}")
    real, imaginary = parts(a)
    return interleave(apply("SumT", real, d // 2), apply("SumT", imaginary, d // 2))


def _real_scal(a: Expr, b: Expr) -> Expr:
    s, z = (a, b) if a.dim == 1 else (b, a)
    if s.dim != 1 or z.dim % 2:
        raise RuleError(f"of dims {a.dim} and {b.dim} one must be 1 and the other even")
    return s * z


def _scal(a: Expr, b: Expr) -> Expr:
    if 2 not in (a.dim, b.dim):
        raise RuleError(f"of dims {a.dim} and {b.dim} one must be 2")
    return _mult(a, b)


# fmt: off
derived("Real2Complex", "the complex vector with real part a",
        lambda a: interleave(a, _zeros(a)),
        reference=lambda a: _joined(a + 0j), cases=(Case((1,)), Case((3,))))

derived("Imag2Complex", "the complex vector with imaginary part a",
        lambda a: interleave(_zeros(a), a),
        reference=lambda a: _joined(1j * a), cases=(Case((1,)), Case((3,))))

derived("ComplexExp1j", "e to the power i a, for real a",
        lambda a: interleave(apply("Cos", a), apply("Sin", a)),
        reference=lambda a: _joined(np.exp(1j * a)), cases=(Case((1,)), Case((3,))))

derived("ComplexAbs", "absolute values of the complex vector a; the derivative at 0 is 0",
        lambda a: apply("Hypot", *parts(a)),
        reference=lambda a: np.abs(_pairs(a)), domain=NONZERO, cases=ONE)

derived("ComplexSquareAbs", "squared absolute values of the complex vector a",
        _square_abs,
        reference=lambda a: np.abs(_pairs(a)) ** 2, cases=ONE)

derived("ComplexAngle", "arguments of the complex vector a, in [-pi, pi]",
        lambda a: apply("Atan2", *reversed(parts(a))),
        reference=lambda a: np.angle(_pairs(a)), domain=NONZERO, cases=ONE)

derived("Conj", "complex conjugate of a",
        _conj, reference=_on_pairs(np.conj), cases=ONE)

derived("ComplexExp", "e to the power a, for complex a",
        _exp, reference=_on_pairs(np.exp), cases=ONE)

derived("ComplexAdd", "sum of the complex vectors a and b",
        _add, reference=_on_pairs(np.add), cases=TWO)

derived("ComplexSubtract", "difference of the complex vectors a and b",
        _subtract, reference=_on_pairs(np.subtract), cases=TWO)

derived("ComplexMult", "product of the complex vectors a and b, component by component",
        _mult, reference=_on_pairs(np.multiply), cases=TWO)

derived("ComplexDivide", "quotient of the complex vectors a and b, component by component",
        _divide, reference=_on_pairs(np.divide), domain=NONZERO, cases=TWO)

derived("ComplexSum", "sum of the components of the complex vector a",
        _sum, reference=_on_pairs(lambda z: z.sum(-1, keepdims=True)), cases=ONE)

derived("ComplexSumT", "the complex scalar a repeated up to dim d",
        _repeat, integers=("d",), reference=lambda a, d: np.tile(a, d // 2),
        cases=(Case((2,), (2,)), Case((2,), (6,))))

derived("ComplexRealScal", "product of a real scalar and a complex vector, in either order",
        _real_scal, reference=np.multiply, cases=(Case((1, 6)), Case((6, 1))))

derived("ComplexScal", "product of a complex scalar and a complex vector, in either order",
        _scal, reference=_on_pairs(np.multiply), cases=(Case((2, 6)), Case((6, 2))))
# fmt: on
