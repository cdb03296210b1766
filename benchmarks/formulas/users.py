"""What users write: the grammar's corners, the formulas of libraries built on the peer, and every reduction."""

from __future__ import annotations

import numpy as np

from . import reasons
from .elementwise import clamp, mod
from .row import Array, Section
from .vectors import concatenated, gaussian, mat_vec, outer, total

grammar = Section("grammar")
compositions = Section("formulas of users")
reductions = Section("reductions")

XY = "x = Vi(3), y = Vj(3)"
XYS = "x = Vi(3), y = Vj(3), s = Pm(1)"

# ---- grammar -------------------------------------------------------------------------------------------------

grammar("-x**2 * y", XY, lambda x, y: -(x**2) * y)
grammar("(-x)**2 * y", XY, lambda x, y: x**2 * y)
grammar("-x * y**3", XY, lambda x, y: -x * y**3)
grammar("x * y**-1", XY, lambda x, y: x / y)
grammar("x**1 + y**0", XY, lambda x, y: x + 1 + 0 * y)
grammar("x - y - x * y", XY, lambda x, y: x - y - x * y)
# Away from 0, as the gradient in x is 0: what is left of large terms would be rounding alone.
grammar("x / y / x", "x = Vi(3) fraction, y = Vj(3) fraction", lambda x, y: x / y / x)
grammar("x / (y * x)", "x = Vi(3) fraction, y = Vj(3) fraction", lambda x, y: x / (y * x))
grammar("x | y + s", XYS, lambda x, y, s: total(x * (y + s)))
grammar("x + y | x", XY, lambda x, y: total((x + y) * x))
grammar("x | y * s", XYS, lambda x, y, s: total(x * y * s))
grammar("(x | y) * s", XYS, lambda x, y, s: total(x * y) * s)
grammar("-x | y", XY, lambda x, y: -total(x * y))
grammar("x < y", XY, lambda x, y: (x < y) * 1.0)
grammar("x <= y", XY, lambda x, y: (x <= y) * 1.0)
grammar("x > y", XY, lambda x, y: (x > y) * 1.0)
grammar("x >= y", XY, lambda x, y: (x >= y) * 1.0)
grammar("x + y < x * y", XY, lambda x, y: (x + y < x * y) * 1.0)
grammar("(x < y) * x", XY, lambda x, y: (x < y) * x)
grammar("x == y", "x = Vi(3) ties, y = Vj(3) ties", lambda x, y: (x == y) * 1.0)
grammar("x != y", "x = Vi(3) ties, y = Vj(3) ties", lambda x, y: (x != y) * 1.0)
grammar("2 * x - 1 + 3 * y", XY, lambda x, y: 2 * x - 1 + 3 * y)
grammar("1 - 2 / (3 + x * x + y * y)", XY, lambda x, y: 1 - 2 / (3 + x * x + y * y))
grammar("1.5 * x + y", XY, lambda x, y: 1.5 * x + y)
grammar("1e-3 * x - y", XY, lambda x, y: 1e-3 * x - y)
grammar("(x * x + y * y)**0.5", XY, lambda x, y: np.sqrt(x * x + y * y))
grammar("(1 + x * x)**y", XY, lambda x, y: (1 + x * x) ** y)
grammar("Clamp(x + y, 0, 1)", XY, lambda x, y: clamp(x + y, 0, 1))
grammar("Powf(1 + x * x, 2) + y", XY, lambda x, y: (1 + x * x) ** 2 + y)
grammar("Mod(x + y, 2, 0)", XY, lambda x, y: mod(x + y, 2, 0))
grammar("x + x - y", XY, lambda x, y: 2 * x - y)
grammar("x - x + y", XY, lambda x, y: y + 0 * x)
grammar("0 * x + y", XY, lambda x, y: y + 0 * x)
grammar("x * y + x * s", XYS, lambda x, y, s: x * (y + s))
grammar("Exp(x) * Exp(y)", XY, lambda x, y: np.exp(x + y))
grammar(
    "Exp(x) * Exp(-y)",
    "x = Vi(1) overflowing, y = Vj(1) overflowing",
    lambda x, y: np.exp(x) * np.exp(-y),
    differs=reasons.ONE_EXPONENTIAL,
)
grammar("Sum(x * y) + s", XYS, lambda x, y, s: total(x * y) + s)
grammar("x * (y / 0)", "x = Vi(3) ties, y = Vj(3) ties", lambda x, y: x * (y / 0.0))
grammar("x * s + y", XYS, lambda x, y, s: x * s + y, aliases=("x=Vi(0,3)", "y=Vj( 1, 3 )", "s=Pm(2,1)"))
grammar(
    "Var(0,3,0) * Var(1,3,1) + Var(2,1,2)",
    XYS,
    lambda x, y, s: x * y + s,
    aliases=("Vi(0,3)", "Vj(1,3)", "Pm(2,1)"),
)
grammar("Vi(0,3) * Vj(1,3)", XY, lambda x, y: x * y, aliases=("Vi(0,3)", "Vj(1,3)"))
grammar("y * Square(y) + x", XYS, lambda x, y, s: y**3 + x)

# ---- formulas of users ---------------------------------------------------------------------------------------

compositions("Exp(-SqDist(x, y)) * b", "x = Vi(3), y = Vj(3), b = Vj(2)", lambda x, y, b: gaussian(x, y) * b)
compositions(
    "Exp(-SqDist(x, y) * g) * b",
    "x = Vi(3), y = Vj(3), b = Vj(1), g = Pm(1) positive",
    lambda x, y, b, g: np.exp(-total((x - y) ** 2) * g) * b,
)
compositions("Exp(-Norm2(x - y))", XY, lambda x, y: np.exp(-np.sqrt(total((x - y) ** 2))))
compositions(
    "Exp(-Sqrt(SqDist(x, y)) / 2) * b",
    "x = Vi(3), y = Vj(3), b = Vj(1)",
    lambda x, y, b: np.exp(-np.sqrt(total((x - y) ** 2)) / 2) * b,
)
compositions(
    "IntCst(1) / (IntCst(1) + SqDist(x, y) * g)",
    "x = Vi(3), y = Vj(3), g = Pm(1) positive",
    lambda x, y, g: 1 / (1 + total((x - y) ** 2) * g),
)
compositions(
    "B - (P * (SqDist(X, Y) / IntCst(2)))",
    "X = Vi(3), Y = Vj(3), B = Vj(1), P = Pm(1)",
    lambda X, Y, B, P: B - P * total((X - Y) ** 2) / 2,
)
compositions(
    "Exp(-(WeightedSqDist(G, X, Y))) * Square((U|V)) * P",
    "X = Vi(3), Y = Vj(3), U = Vi(3), V = Vj(3), P = Vj(2), G = Pm(1) positive",
    lambda X, Y, U, V, P, G: np.exp(-G * total((X - Y) ** 2)) * total(U * V) ** 2 * P,
)
compositions(
    "(Px|Py) * Exp(-G*SqDist(X,Y)) * (X-Y)",
    "X = Vi(3), Y = Vj(3), Px = Vi(3), Py = Vj(3), G = Pm(1) positive",
    lambda X, Y, Px, Py, G: total(Px * Py) * np.exp(-G * total((X - Y) ** 2)) * (X - Y),
)
compositions(
    "Square(p-a)*Exp(x+y)",
    "x = Vi(3), y = Vj(3), a = Vj(1), p = Pm(1)",
    lambda x, y, a, p: (p - a) ** 2 * np.exp(x + y),
)
compositions(
    "Exp(-Square(Sin(Sum(Abs(x - y)))) * g)",
    "x = Vi(3), y = Vj(3), g = Pm(1) positive",
    lambda x, y, g: np.exp(-(np.sin(total(np.abs(x - y))) ** 2) * g),
)
compositions(
    "(1 + (x | y))**3 * b", "x = Vi(3), y = Vj(3), b = Vj(1)", lambda x, y, b: (1 + total(x * y)) ** 3 * b
)
compositions(
    "Step(IntCst(1) - SqDist(x, y)) * b",
    "x = Vi(3), y = Vj(3), b = Vj(2)",
    lambda x, y, b: (total((x - y) ** 2) <= 1) * b,
)
compositions(
    "IfElse(x - y, x * b, -y)",
    "x = Vi(3), y = Vj(3), b = Vj(1)",
    lambda x, y, b: np.where(x >= y, x * b, -y + 0 * x),
)
compositions(
    "ReLU(IntCst(1) - Norm2(x - y)) * b",
    "x = Vi(3), y = Vj(3), b = Vj(1)",
    lambda x, y, b: np.maximum(1 - np.sqrt(total((x - y) ** 2)), 0) * b,
)
compositions(
    "x / Square(Norm2(x - y) + g) * b",
    "x = Vi(3), y = Vj(3), b = Vj(1), g = Pm(1) positive",
    lambda x, y, b, g: x / (np.sqrt(total((x - y) ** 2)) + g) ** 2 * b,
)
compositions("Log(1 + Exp(-(x | y)))", XY, lambda x, y: np.log(1 + np.exp(-total(x * y))))
compositions("XLogX(Exp(-SqDist(x, y)))", XY, lambda x, y: -total((x - y) ** 2) * gaussian(x, y))
compositions(
    "Normalize(x) | Normalize(y)", XY, lambda x, y: total(x / np.sqrt(total(x * x)) * y / np.sqrt(total(y * y)))
)
compositions(
    "Cos(w * (x | y)) * b",
    "x = Vi(3), y = Vj(3), b = Vj(1), w = Pm(1)",
    lambda x, y, b, w: np.cos(w * total(x * y)) * b,
)
compositions(
    "(IntCst(1) + Sqrt(IntCst(3) * SqDist(x, y))) * Exp(-Sqrt(IntCst(3) * SqDist(x, y)))",
    XY,
    lambda x, y: (1 + np.sqrt(3 * total((x - y) ** 2))) * np.exp(-np.sqrt(3 * total((x - y) ** 2))),
)
compositions(
    "Rsqrt(SqDist(x, y) + g) * b",
    "x = Vi(3), y = Vj(3), b = Vj(1), g = Pm(1) positive",
    lambda x, y, b, g: b / np.sqrt(total((x - y) ** 2) + g),
)
compositions(
    "Concat(x * b, IntCst(1)) * Exp(-SqDist(x, y))",
    "x = Vi(3), y = Vj(3), b = Vj(1)",
    lambda x, y, b: concatenated(x * b, np.ones((1, 1, 1))) * gaussian(x, y),
)
compositions(
    "Atan2(Elem(x, 0) - Elem(y, 0), Elem(x, 1) - Elem(y, 1)) * b",
    "x = Vi(3), y = Vj(3), b = Vj(1)",
    lambda x, y, b: np.arctan2(x[..., :1] - y[..., :1], x[..., 1:2] - y[..., 1:2]) * b,
)
compositions(
    "Exp(-SqDist(x, y)) * (SqDist(x, y) - IntCst(3)) * (b | c)",
    "x = Vi(3), y = Vj(3), b = Vi(2), c = Vj(2)",
    lambda x, y, b, c: gaussian(x, y) * (total((x - y) ** 2) - 3) * total(b * c),
)
compositions(
    "Exp(-Sum(Square(x / l - y / l)) / 2) * b",
    "x = Vi(3), y = Vj(3), b = Vj(1), l = Pm(3) positive",
    lambda x, y, b, l: np.exp(-total((x / l - y / l) ** 2) / 2) * b,
)
compositions(
    "Exp((Minus(Sum(((Var(0,3,0) - Var(1,3,1)))**2)) / IntCst(2))) * Var(2,1,1)",
    "x = Vi(3), y = Vj(3), b = Vj(1)",
    lambda x, y, b: np.exp(-total((x - y) ** 2) / 2) * b,
    aliases=("Vi(0,3)", "Vj(1,3)", "Vj(2,1)"),
)


def matern(r: Array) -> Array:
    """Of smoothness 5/2."""
    return (1 + r + r * r / 3) * np.exp(-r)


compositions(
    "(1 + Norm2(x - y) * g + SqDist(x, y) * g**2 / 3) * Exp(-Norm2(x - y) * g) * b",
    "x = Vi(2), y = Vj(2), b = Vj(3), g = Pm(1) positive",
    lambda x, y, b, g: matern(np.sqrt(total((x - y) ** 2)) * g) * b,
    differs=reasons.SINGLE_CONSTANT,
)
compositions(
    "s * Exp(-2 * Sum(Square(Sin(w * (x - y)) / l))) * b",
    "x = Vi(3), y = Vj(3), b = Vj(1), s = Pm(1) positive, w = Pm(3) fraction, l = Pm(3) fraction",
    lambda x, y, b, s, w, l: s * np.exp(-2 * total((np.sin(w * (x - y)) / l) ** 2)) * b,
)
compositions(
    "Exp(-SqDist(x, y)) * Exp(-SqDist(u, v) * g) * b",
    "x = Vi(3), y = Vj(3), u = Vi(2), v = Vj(2), b = Vj(1), g = Pm(1) positive",
    lambda x, y, u, v, b, g: gaussian(x, y) * np.exp(-total((u - v) ** 2) * g) * b,
)
compositions(
    "( B - (P * (SqDist(X,Y) / IntCst(2)) ) )",
    "X = Vi(3), Y = Vj(3), B = Vj(1), P = Pm(1) positive",
    lambda X, Y, B, P: B - P * total((X - Y) ** 2) / 2,
    reduction="LogSumExp",
)
compositions(
    "( B - (P * Norm2(X-Y) ) )",
    "X = Vi(3), Y = Vj(3), B = Vj(1), P = Pm(1) positive",
    lambda X, Y, B, P: B - P * np.sqrt(total((X - Y) ** 2)),
    reduction="LogSumExp",
)
compositions(
    "B - SqDist(X,Y) * P",
    "X = Vi(3), Y = Vj(3), B = Vj(1), P = Pm(1) positive",
    lambda X, Y, B, P: B - total((X - Y) ** 2) * P,
    reduction="Max_ArgMax",
)
compositions(
    "x * Step(h - Square(i - j))",
    "i = Vi(1) places, j = Vj(1) places, x = Vj(2), h = Pm(1) positive",
    lambda i, j, x, h: x * ((i - j) ** 2 <= h),
)
compositions("-SqDist(x, y)", XY, lambda x, y: -total((x - y) ** 2), reduction="ArgKMin", K=2)
compositions(
    "Exp(-SqDist(x, y)) * MatVecMult(A, b)",
    "x = Vi(3), y = Vj(3), A = Vi(9), b = Vj(3)",
    lambda x, y, A, b: gaussian(x, y) * mat_vec(A, b),
)
compositions(
    "TensorProd(x - y, f) * Exp(-SqDist(x, y) / s)",
    "x = Vi(3), y = Vj(3), f = Vj(2), s = Pm(1) positive",
    lambda x, y, f, s: outer(x - y, f) * np.exp(-total((x - y) ** 2) / s),
)
compositions(
    "Square((Nx|Ny)) * Exp(-SqDist(x, y) * a) * p",
    "x = Vi(3), y = Vj(3), Nx = Vi(3), Ny = Vj(3), a = Pm(1) positive, p = Vj(2)",
    lambda x, y, Nx, Ny, a, p: total(Nx * Ny) ** 2 * np.exp(-total((x - y) ** 2) * a) * p,
)
compositions(
    "1000000000000 * Step(IntCst(1) - SqDist(x, y)) - SqDist(x, y)",
    XY,
    lambda x, y: 1e12 * (total((x - y) ** 2) <= 1) - total((x - y) ** 2),
    reduction="Min",
)

# ---- reductions ----------------------------------------------------------------------------------------------

for axis in (1, 0):
    for name in ("Sum", "Max", "Min", "ArgMax", "ArgMin", "Max_ArgMax", "Min_ArgMin"):
        reductions("x * y", XY, lambda x, y: x * y, reduction=name, axis=axis)
        reductions("Norm2(x - y)", XY, lambda x, y: np.sqrt(total((x - y) ** 2)), reduction=name, axis=axis)
    for name in ("KMin", "ArgKMin", "KMin_ArgKMin"):
        reductions("x * y", XY, lambda x, y: x * y, reduction=name, axis=axis, K=3)
    reductions("-SqDist(x, y)", XY, lambda x, y: -total((x - y) ** 2), reduction="LogSumExp", axis=axis)
    for name in ("LogSumExp", "SumSoftMaxWeight"):
        reductions(
            "-SqDist(x, y)",
            "x = Vi(3), y = Vj(3), b = Vj(2) positive, c = Vi(2) positive",
            lambda x, y, b, c: -total((x - y) ** 2),
            reduction=name,
            axis=axis,
            weights="b * c",
            weights_truth=lambda x, y, b, c: b * c,
        )
for name in ("KMin", "ArgKMin", "KMin_ArgKMin"):
    reductions("SqDist(x, y)", XY, lambda x, y: total((x - y) ** 2), reduction=name, K=5)
reductions("x * y", "x = Vi(1) large, y = Vj(1)", lambda x, y: x * y, reduction="LogSumExp")
for name in ("Max", "Min", "ArgMax", "ArgMin", "Max_ArgMax", "Min_ArgMin"):
    reductions("x + y", "x = Vi(3) ties, y = Vj(3) ties", lambda x, y: x + y, reduction=name)
    reductions(
        "x + y",
        "x = Vi(3), y = Vj(3) some_nan",
        lambda x, y: x + y,
        reduction=name,
        differs=reasons.SKIPPED_NAN,
    )
reductions("x + y", "x = Vi(2) ties, y = Vj(2) ties", lambda x, y: x + y, reduction="KMin_ArgKMin", K=4)
reductions("SqDist(x, y)", XY, lambda x, y: total((x - y) ** 2), reduction="MinArgMin")
reductions("SqDist(x, y)", XY, lambda x, y: total((x - y) ** 2), reduction="MaxArgMax")
reductions("SqDist(x, y)", XY, lambda x, y: total((x - y) ** 2), reduction="KMinArgKMin", K=3)
reductions("x | y", XY, lambda x, y: total(x * y), reduction="Max_SumShiftExp", differs=reasons.PSEUDO_GRADIENT)
DIFFERS = {"LogSumExpWeight": reasons.UNFINISHED, "Max_SumShiftExpWeight": reasons.PSEUDO_GRADIENT}
for name in ("SoftMax", "LogSumExpWeight", "Max_SumShiftExpWeight"):
    reductions(
        "x | y",
        "x = Vi(3), y = Vj(3), b = Vj(2) positive",
        lambda x, y, b: total(x * y),
        reduction=name,
        weights="b",
        weights_truth=lambda x, y, b: b,
        differs=DIFFERS.get(name, ""),
    )

SECTIONS = (grammar, compositions, reductions)
