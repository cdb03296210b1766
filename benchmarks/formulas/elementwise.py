"""Operators on each component: at generic points, broadcast, and at edge values.

A unary operator has three rows: of a sum over both axes, of a product with a parameter reduced over i, and alone
at the edge values.
"""

from __future__ import annotations

import numpy as np

from . import reasons
from .row import Array, Section

unary = Section("unary operators")
unary_edges = Section("unary operators at edge values")


def _xlogx(a: Array) -> Array:
    return np.where(a == 0, 0, a * np.log(np.where(a == 0, 1, a)))


def _rsqrt(a: Array) -> Array:
    return np.where(a == 0, 0, 1 / np.sqrt(np.where(a == 0, 1, a)))


def _step(a: Array) -> Array:
    return np.heaviside(a, 1.0)


UNARY = {
    "Minus": ("real", np.negative),
    "Inv": ("real", lambda a: 1 / a),
    "Exp": ("real", np.exp),
    "Log": ("positive", np.log),
    "XLogX": ("positive", _xlogx),
    "Sin": ("real", np.sin),
    "Cos": ("real", np.cos),
    "Asin": ("unit", np.arcsin),
    "Acos": ("unit", np.arccos),
    "Atan": ("real", np.arctan),
    "SinXDivX": ("real", lambda a: np.sinc(a / np.pi)),
    "Square": ("real", np.square),
    "Sqrt": ("positive", np.sqrt),
    "Rsqrt": ("positive", _rsqrt),
    "Abs": ("real", np.abs),
    "Sign": ("real", np.sign),
    "Step": ("real", _step),
    "ReLU": ("real", lambda a: np.where(a < 0, 0, a)),
    "Floor": ("real", np.floor),
}

DIFFERS = {
    "SinXDivX": reasons.SINC_AT_ZERO,
    "Abs": reasons.SIGN_OF_NAN,
    "Sign": reasons.SIGN_OF_NAN,
    "Step": reasons.STEP_OF_NAN,
    "ReLU": reasons.STEP_OF_NAN,
}

for name, (draw, function) in UNARY.items():
    unary(f"{name}(x + y)", f"x = Vi(3) {draw}, y = Vj(3) {draw}", lambda x, y, f=function: f(x + y))
    unary(
        f"{name}(p * x) * b",
        f"x = Vi(1) {draw}, b = Vj(2), p = Pm(1) fraction",
        lambda x, b, p, f=function: f(p * x) * b,
        axis=0,
    )
    unary_edges(f"{name}(x)", "x = Vi(1) edges", lambda x, f=function: f(x), differs=DIFFERS.get(name, ""))

# ---- operators with integer arguments ------------------------------------------------------------------------

integers = Section("operators with integer arguments")
for n in (-3, -2, -1, 0, 1, 2, 3, 5, 12):
    integers(f"Pow(x - y, {n})", "x = Vi(3), y = Vj(3)", lambda x, y, n=n: (x - y) ** float(n))
for n in (-1, 0, 2, 3):
    integers(f"Pow(x, {n})", "x = Vi(1) edges", lambda x, n=n: x ** float(n))
for d in (0, 1, 3):
    integers(f"Round(x + y, {d})", "x = Vi(3), y = Vj(3)", lambda x, y, d=d: np.round(x + y, d))
integers("Round(100 * (x + y), -1)", "x = Vi(3), y = Vj(3)", lambda x, y: np.round(100 * (x + y), -1))
integers("Round(x, 0)", "x = Vi(1) edges", np.round, differs=reasons.HALVES)
for low, high in ((-1, 1), (0, 1)):
    integers(
        f"ClampInt(x + y, {low}, {high})",
        "x = Vi(3), y = Vj(3)",
        lambda x, y, l=low, h=high: np.where(x + y < l, l, np.where(x + y > h, h, x + y)),
    )
integers("DiffClampInt(x + y, -1, 1)", "x = Vi(3), y = Vj(3)", lambda x, y: (np.abs(x + y) <= 1) * 1.0)
integers("ClampInt(x, -1, 1)", "x = Vi(1) edges", lambda x: np.where(x < -1, -1, np.where(x > 1, 1, x)))
integers("DiffClampInt(x, -1, 1)", "x = Vi(1) edges", lambda x: 1.0 - ((x < -1) | (x > 1)))

# ---- two and three operands ----------------------------------------------------------------------------------


def clamp(a: Array, b: Array, c: Array) -> Array:
    """As the language defines it, whatever the order of b and c."""
    return np.where(a < b, b, np.where(a > c, c, a))


def mod(a: Array, b: Array, c: Array) -> Array:
    """As the language defines it."""
    return a - b * np.floor((a - c) / b)


BINARY = {
    "Add": ("real", np.add),
    "Subtract": ("real", np.subtract),
    "Mult": ("real", np.multiply),
    "Divide": ("real", np.divide),
    "Atan2": ("real", np.arctan2),
    "Powf": ("positive", np.power),
    "Equal": ("ties", lambda a, b: (a == b) * 1.0),
    "NotEqual": ("ties", lambda a, b: (a != b) * 1.0),
    "LessThan": ("real", lambda a, b: (a < b) * 1.0),
    "LessOrEqual": ("real", lambda a, b: (a <= b) * 1.0),
}
binary = Section("two operands")
for name, (draw, function) in BINARY.items():
    for D, E in ((3, 3), (1, 3), (3, 1), (1, 1)):
        binary(
            f"{name}(x, y)",
            f"x = Vi({D}) {draw}, y = Vj({E}) {draw}",
            lambda x, y, f=function: f(x, y),
            axis=1 if D >= E else 0,
            differs=reasons.SINGLE_POWER if name == "Powf" else "",
        )
    binary(
        f"{name}(x, y)",
        "x = Vi(1) first_of_pairs, y = Vi(1) second_of_pairs",
        lambda x, y, f=function: f(x, y),
        differs=reasons.POWER_AT_ZERO if name == "Powf" else "",
    )

TERNARY = {
    "Clamp": (clamp, ("real", "unit", "fraction")),  # the bounds in order: else the peer differentiates otherwise
    "IfElse": (lambda a, b, c: np.where(a >= 0, b, c), ("real", "real", "real")),
    "Mod": (mod, ("real", "positive", "unit")),
}
ternary = Section("three operands")
for name, (function, draws) in TERNARY.items():
    for dims in ((3, 3, 3), (1, 3, 3), (3, 1, 1), (3, 1, 3), (1, 1, 1)):
        declared = ", ".join(
            f"{letter} = {word}({dim}) {draw}"
            for letter, word, dim, draw in zip("xyp", ("Vi", "Vj", "Pm"), dims, draws, strict=True)
        )
        ternary(f"{name}(x, y, p)", declared, function)
    ternary(
        f"{name}(x, a, b)",
        "x = Vi(1) first_of_triples, a = Vi(1) second_of_triples, b = Vi(1) third_of_triples",
        function,
        differs=reasons.CLAMP_DERIVATIVE if name == "Clamp" else "",
    )

SECTIONS = (unary, unary_edges, integers, binary, ternary)
