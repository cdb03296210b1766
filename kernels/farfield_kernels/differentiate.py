"""Expr -> Expr: derivatives written out as formulas.

The reverse sweep is the one rule from which all derivatives come: a gradient is linear in its cotangent, so the
derivative along a direction is the gradient of the gradient with respect to that cotangent.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterator, Sequence

from .errors import RuleError
from .expr import Const, Expr, apply, broadcast, constant, spend, topological, variable

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
    nodes = list(topological([formula for formula, _ in outputs]))
    spend(len(nodes))
    for node in reversed(nodes):
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


def is_linear(formula: Expr, wrt: Sequence[Expr]) -> bool:
    """Whether `formula` is linear in the nodes of `wrt` together: read off what its operators declare."""
    states: dict[int, str] = {}  # of each node: linear, zero, free (of wrt, as far as known not zero), other

    for node in topological([formula]):
        spend(1)
        operands = [states[id(operand)] for operand in node.operands]
        if any(node is known for known in wrt):
            state = "linear"
        elif node.op is None:
            state = "zero" if isinstance(node, Const) and node.value == 0 else "free"
        elif any(all(operands[place] == "zero" for place in group) for group in node.op.linear):
            state = "zero"
        elif not {"linear", "other"} & set(operands):
            state = "free"
        else:
            moving = {place for place, kind in enumerate(operands) if kind in ("linear", "other")}
            joint = any(
                moving <= set(group) and all(operands[place] in ("linear", "zero") for place in group)
                for group in node.op.linear
            )
            state = "linear" if joint else "other"
        states[id(node)] = state
    return states[id(formula)] in ("linear", "zero")


def trace(formula: Expr, wrt: Expr, weight: Expr) -> Expr:
    """Weighted trace of the Jacobian: the sum of weight_k d formula_k / d wrt_k.

    Operators on each component alone have diagonal Jacobians, so the weight passes through them as a cotangent
    does. A scalar that is repeated costs one reverse sweep, any other operator one sweep per component.

    Args:
        formula: of dim D.
        wrt: a variable of dim D.
        weight: of dim D or 1.

    Returns:
        The trace, of dim 1.
    """
    dim = wrt.dim
    if formula.dim != dim:
        raise RuleError(f"the formula has dim {formula.dim}, the variable {dim}")
    if dim == 1:
        return vjp([(formula, weight)], [wrt])[0]
    nodes, dependent = [], {id(wrt)}
    for node in topological([formula]):
        spend(1)
        if any(id(operand) in dependent for operand in node.operands):
            nodes.append(node)
            dependent.add(id(node))
    weights = {id(formula): _fit(weight, dim)}
    parts = []
    for node in reversed(nodes):
        weight_of_node = weights.get(id(node))
        if weight_of_node is None:
            continue
        assert node.op is not None
        if node.op.dim is not broadcast:
            moving = {id(operand): operand for operand in node.operands if id(operand) in dependent}
            scalar = next(iter(moving.values()))
            if len(moving) == 1 and scalar.dim == 1:
                along = jvp(node, [scalar], [constant(1.0)])
                parts.append(apply("Scalprod", weight_of_node * along, _gradient(scalar, wrt)))
            else:
                parts += _trace_by_component(node, wrt, weight_of_node)
            continue
        passed = node.op.vjp(weight_of_node, node, *node.operands, *node.params)
        for operand, weight_or_zero in zip(node.operands, passed, strict=True):
            if weight_or_zero is None or id(operand) not in dependent:
                continue
            wide = _fit(weight_or_zero, dim)
            if operand.dim == 1:
                parts.append(apply("Scalprod", wide, _gradient(operand, wrt)))
            else:
                before = weights.get(id(operand))
                weights[id(operand)] = wide if before is None else before + wide
    if id(wrt) in weights:
        parts.append(apply("Sum", weights[id(wrt)]))
    return functools.reduce(operator.add, parts) if parts else constant(0.0)


def _gradient(scalar: Expr, wrt: Expr) -> Expr:
    return vjp([(scalar, constant(1.0))], [wrt])[0]


def _trace_by_component(node: Expr, wrt: Expr, weight: Expr) -> Iterator[Expr]:
    for k in range(node.dim):
        chosen = apply("ExtractT", apply("Extract", weight, k, 1), k, node.dim)
        yield apply("Extract", vjp([(node, chosen)], [wrt])[0], k, 1)
