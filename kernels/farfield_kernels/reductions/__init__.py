"""One declaration per reduction: state, identity, step, merge, finish, gradient, reference. See `kinds`."""

from __future__ import annotations

from ..errors import RuleError
from . import exponentials, selection, sums
from .kinds import REDUCTIONS, SPELLINGS, Field, Gradient, Pair, Reduction, Result, State, Tile
from .sums import COMPENSATED_SUM, SUM


def find(name: str) -> Reduction:
    """The reduction of that name, of another spelling of it, or of its `_Reduction` form.

    Raises:
        RuleError: no such reduction.
    """
    name = name.removesuffix("_Reduction")
    reduction = REDUCTIONS.get(SPELLINGS.get(name, name))
    if reduction is None:
        raise RuleError(f"the reductions are {', '.join(sorted(REDUCTIONS))}")
    return reduction


__all__ = [
    "COMPENSATED_SUM",
    "REDUCTIONS",
    "SPELLINGS",
    "SUM",
    "Field",
    "Gradient",
    "Pair",
    "Reduction",
    "Result",
    "State",
    "Tile",
    "exponentials",
    "find",
    "selection",
    "sums",
]
