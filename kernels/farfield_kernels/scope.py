"""What the names of a formula stand for, and the arguments of its call."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import FormulaError, RuleError
from .expr import Axis, Expr, variable

MAX_POSITION = 63

AXES: dict[str, Axis] = {"Vi": "i", "Vj": "j", "Pm": "p"}
CATEGORIES: tuple[Axis, ...] = ("i", "j", "p")  # of Var(position, dim, category)
KINDS = (*AXES, "Var", "Ind")
"""Names that are read by the grammar itself, besides those of operators."""


@dataclass(frozen=True)
class Variable:
    """One argument of the call, number `position`: `dim` components per row of `axis`."""

    name: str
    position: int
    dim: int
    axis: Axis

    @property
    def written(self) -> str:
        """As an inline variable, `Vi(0, 3)`."""
        kind = next(kind for kind, axis in AXES.items() if axis == self.axis)
        return f"{kind}({self.position}, {self.dim})"


@dataclass(frozen=True)
class Place:
    """Where in which text something stands."""

    text: str
    at: int
    field: str

    def wrong(self, reason: str, limit: int | None = None) -> FormulaError:
        """The error to raise about it; `limit` if that was exceeded."""
        return FormulaError(reason, text=self.text, position=self.at, field=self.field, limit=limit)


class Scope:
    """What names stand for, and the arguments of the call with the place where each is first met.

    Args:
        is_open: whether a formula may bring in arguments that no declaration names.
    """

    def __init__(self, *, is_open: bool = True) -> None:
        self.names: dict[str, Expr] = {}
        self.arguments: dict[int, Variable] = {}
        self.places: dict[int, Place] = {}
        self.is_open = is_open

    def argument(self, found: Variable, place: Place) -> Expr:
        """The node of an argument; it agrees with what is known of its position.

        Raises:
            FormulaError: position, dim or axis.
        """
        if not 0 <= found.position <= MAX_POSITION:
            raise place.wrong(f"position {found.position} is outside 0..{MAX_POSITION}")
        known = self.arguments.get(found.position)
        if known is not None and (known.dim, known.axis) != (found.dim, found.axis):
            label = "" if known.name == known.written else f"{known.name} = "
            raise place.wrong(f"{found.written} does not agree with {label}{known.written}")
        try:
            node = variable(found.position, found.dim, found.axis)
        except RuleError as reason:
            raise place.wrong(f"{found.written.split('(')[0]}: {reason}", reason.limit) from None
        if known is None:
            if not self.is_open:
                raise place.wrong(f"{found.written} is not a declared variable")
            self.arguments[found.position] = found
            self.places[found.position] = place
        return node


def declared(name: str, kind: str, position: int, dim: int, category: list[int], place: Place) -> Variable:
    """The variable that `kind(position, dim)`, or `Var(position, dim, category)`, declares."""
    if not category:
        return named(Variable(name, position, dim, AXES[kind]))
    if not 0 <= category[0] < len(CATEGORIES):
        raise place.wrong(f"category {category[0]} is not one of 0 (i), 1 (j), 2 (parameter)")
    return named(Variable(name, position, dim, CATEGORIES[category[0]]))


def named(found: Variable) -> Variable:
    """A variable without a name is called as it is written inline."""
    return found if found.name else Variable(found.written, found.position, found.dim, found.axis)
