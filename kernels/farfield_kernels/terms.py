"""Operation -> Terms: reductions of formulas, derivatives written out.

A `Term` is one reduction of one formula that keeps one axis; a parameter's gradient keeps none and sums over
both. The gradient of a sum of terms with respect to a variable v is again a sum over all pairs (i, j) of a
formula over the same variables and the cotangents, whatever axis v lies on, so one reverse sweep over the joint
graph gives all gradients at once and shares every subexpression between them.
"""

from __future__ import annotations

from dataclasses import dataclass

from .differentiate import vjp
from .expr import Axis, Expr, variable
from .operation import Operation, Reduce
from .reductions import REDUCTIONS, Reduction


@dataclass(frozen=True, eq=False)
class Term:
    """One reduction of `formula`, over every axis but `keep`."""

    formula: Expr
    reduction: Reduction
    keep: Axis


def expand(operation: Operation) -> tuple[Term, ...]:
    """The terms whose reductions are the operation's results, one per result or group of results.

    Argument k of the operation is the variable at position k; indices enter formulas as two floats, their high
    and their low halves (see `Index`).
    """
    if isinstance(operation, Reduce):
        return (Term(operation.formula, operation.reduction, operation.keep),)
    inner = expand(operation.of)
    slots = operation.arguments
    nodes = [
        variable(place, slot.dim * (2 if slot.is_index else 1), slot.axis) for place, slot in enumerate(slots)
    ]
    taken = len(operation.of.arguments)
    saved = nodes[taken] if operation.of.saved else None
    cotangents = nodes[taken + len(operation.of.saved) :]
    outputs = []
    for term, cotangent in zip(inner, cotangents, strict=True):
        assert term.reduction.gradient is not None
        over: Axis = "i" if term.keep == "j" else "j"
        outputs.append((term.formula, term.reduction.gradient(term.formula, saved, cotangent, over)))
    gradients = vjp(outputs, [nodes[place] for place in operation.wrt])
    return tuple(
        Term(gradient, REDUCTIONS["Sum"], slots[place].axis)
        for place, gradient in zip(operation.wrt, gradients, strict=True)
    )
