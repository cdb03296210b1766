"""Operation -> Terms: derivatives written out as formulas.

A `Term` is one reduction of one formula that keeps one axis; a parameter's gradient keeps none and sums over
both. The gradient of a sum of terms with respect to a variable v is again a sum over all pairs (i, j) of a
formula over the same variables and the cotangents, whatever axis v lies on, so one reverse sweep over the joint
graph gives all gradients at once and shares every subexpression between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .errors import RuleError
from .expr import Axis, Expr, apply, constant, topological, variable
from .operation import Operation, Reduce
from .reductions import REDUCTIONS, Reduction


@dataclass(frozen=True, eq=False)
class Term:
    """One reduction of `formula`, over every axis but `keep`."""

    formula: Expr
    reduction: Reduction
    keep: Axis


def vjp(outputs: Sequence[tuple[Expr, Expr]], wrt: Sequence[Expr]) -> list[Expr]:
    """Reverse sweep.

    Args:
        outputs: pairs (formula, its cotangent), dims equal.
        wrt: nodes, variables as a rule.

    Returns:
        The cotangent of each node of `wrt`, of that node's dim; zeros where no output depends on it.
    """
    cotangents: dict[int, Expr] = {}

    def add(node: Expr, cotangent: Expr) -> None:
        cotangent = _fit(cotangent, node.dim)
        before = cotangents.get(id(node))
        cotangents[id(node)] = cotangent if before is None else before + cotangent

    for formula, cotangent in outputs:
        add(formula, cotangent)
    for node in reversed(list(topological([formula for formula, _ in outputs]))):
        cotangent_of_node = cotangents.get(id(node))
        if node.op is None or cotangent_of_node is None:
            continue
        operand_cotangents = node.op.vjp(cotangent_of_node, node, *node.operands, *node.params)
        for operand, cotangent_or_zero in zip(node.operands, operand_cotangents, strict=True):
            if cotangent_or_zero is not None and operand.axes:
                add(operand, cotangent_or_zero)
    return [cotangents.get(id(node)) or zeros(node.dim) for node in wrt]


def _fit(cotangent: Expr, dim: int) -> Expr:
    """Undo broadcasting: the cotangent of an operand that was repeated is the sum over its copies."""
    if cotangent.dim == dim:
        return cotangent
    if dim == 1:
        return apply("Sum", cotangent)
    if cotangent.dim == 1:
        return apply("SumT", cotangent, dim)
    raise RuleError(f"a cotangent of dim {cotangent.dim} does not fit an operand of dim {dim}")


def zeros(dim: int) -> Expr:
    """The zero vector."""
    return constant(0.0) if dim == 1 else apply("SumT", constant(0.0), dim)


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
