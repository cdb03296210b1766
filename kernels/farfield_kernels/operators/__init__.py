"""One declaration per operator: parser, differentiation, emission, tests and documentation read it."""

from __future__ import annotations

from ..expr import OPERATORS, Operator
from . import (
    comparison,
    constants,
    curves,
    differential,
    elementwise,
    extrema,
    norms,
    special,
    tensors,
    transcendental,
    vector,
)
from . import complex as complex_vectors

INTERNAL = frozenset({"Contract", "Interleave"})
"""Operators that definitions use and formulas cannot name."""


def named_operators() -> dict[str, Operator]:
    """The operators that a formula may call, by name."""
    return {name: operator for name, operator in OPERATORS.items() if name not in INTERNAL}


__all__ = [
    "INTERNAL",
    "OPERATORS",
    "comparison",
    "complex_vectors",
    "constants",
    "curves",
    "differential",
    "elementwise",
    "extrema",
    "named_operators",
    "norms",
    "special",
    "tensors",
    "transcendental",
    "vector",
]
