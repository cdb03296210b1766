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
from .reductions import COMPENSATED_SUM, SUM, Pair, Reduction


@dataclass(frozen=True, eq=False)
class Term:
    """One reduction of `formula`, over every axis but `keep`.

    Args:
        weights: the second formula of a weighted reduction, as it is summed.
        K: how many terms are selected.
    """

    formula: Expr
    reduction: Reduction
    keep: Axis
    weights: Expr | None = None
    K: int = 1


def expand(operation: Operation) -> tuple[Term, ...]:
    """The terms whose reductions are the operation's results, one per result or group of results.

    Argument k of the operation is the variable at position k; indices enter formulas as floats, their high and
    their low halves (see `Index` and `Slot.width`).
    """
    if isinstance(operation, Reduce):
        return (
            Term(operation.formula, operation.reduction, operation.keep, operation.summed_weights, operation.K),
        )
    slots = operation.arguments
    nodes: list[Expr] = [variable(place, slot.width, slot.axis) for place, slot in enumerate(slots)]
    taken = len(operation.of.arguments)
    kept = taken + len(operation.of.saved)
    saved, cotangents = tuple(nodes[taken:kept]), nodes[kept:]
    if isinstance(operation.of, Reduce):
        outputs = _outputs(operation.of, saved, cotangents)
    else:
        outputs = [(term.formula, e) for term, e in zip(expand(operation.of), cotangents, strict=True)]
    gradients = vjp(outputs, [nodes[place] for place in operation.wrt])
    scheme = _sum_scheme(operation)
    return tuple(
        Term(gradient, scheme, slots[place].axis) for place, gradient in zip(operation.wrt, gradients, strict=True)
    )


def _outputs(of: Reduce, saved: tuple[Expr, ...], cotangents: list[Expr]) -> list[tuple[Expr, Expr]]:
    """The formulas of a reduction and their cotangents at one pair (i, j)."""
    gradient = of.reduction.gradient
    assert gradient is not None
    pair = Pair(of.formula, of.weights, saved, tuple(cotangents), of.over, of.K)
    of_term, of_weights = gradient(pair)
    outputs = [] if of_term is None else [(of.formula, of_term)]
    if of.weights is not None and of_weights is not None:
        outputs.append((of.weights, of_weights))
    return outputs


def _sum_scheme(operation: Operation) -> Reduction:
    """Gradients of compensated sums are compensated sums."""
    while not isinstance(operation, Reduce):
        operation = operation.of
    return COMPENSATED_SUM if operation.reduction is COMPENSATED_SUM else SUM
