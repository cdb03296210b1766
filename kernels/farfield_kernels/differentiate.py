"""Expr -> Expr: derivatives written out as formulas.

The reverse sweep is the one rule from which all derivatives come: a gradient is linear in its cotangent, so the
derivative along a direction is the gradient of the gradient with respect to that cotangent.
"""

from __future__ import annotations

from collections.abc import Sequence

from .errors import RuleError
from .expr import Expr, apply, constant, topological, variable

SYMBOLIC = -1  # position of the cotangent that `jvp` brings in and eliminates


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


def jvp(formula: Expr, wrt: Sequence[Expr], tangents: Sequence[Expr]) -> Expr:
    """Derivative of `formula` when each node of `wrt` moves along its tangent.

    Args:
        formula: any formula, of dim D.
        wrt: nodes, variables as a rule.
        tangents: one formula per node of `wrt`, of its dim or of dim 1.

    Returns:
        The derivative, of dim D.
    """
    cotangent = variable(SYMBOLIC, formula.dim, "p")
    gradients = vjp([(formula, cotangent)], wrt)
    return vjp(list(zip(gradients, tangents, strict=True)), [cotangent])[0]
