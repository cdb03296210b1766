"""Derivatives within formulas: gradients, directional derivatives, Jacobians, traces.

Their references are given the Jacobian of the formula, (..., D, d), in place of the formula and its variable, and
the Laplacian's is given the Hessian.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..differentiate import is_linear, jvp, trace, vjp
from ..domains import REAL, Array, Case
from ..errors import RuleError
from ..expr import Axis, Derived, Expr, Var, apply, constant, declare, spend, topological, variable

Formulas = Expr | tuple[Expr, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Differential(Derived):
    """A derivative of the first operand with respect to the second, which is a variable.

    Args:
        of: what the first operand must be: any formula, one that is linear in the variable, or a scalar.
    """

    of: Literal["any", "linear", "scalar"]


def differential(
    name: str,
    doc: str,
    definition: Callable[..., Expr],
    *,
    of: Literal["any", "linear", "scalar"],
    reference: Callable[..., Array],
    cases: tuple[Case, ...],
    optional: int = 0,
    several: tuple[int, ...] = (),
) -> None:
    """Declare a derivative; what it asks of its first two operands is checked here, once for all."""

    def checked(f: Expr, v: Formulas, *others: Formulas) -> Expr:
        variables = v if isinstance(v, tuple) else (v,)
        for node in variables:
            if not isinstance(node, Var):
                raise RuleError(f"the derivative is with respect to a variable, not to {node!r}")
        if not variables or len(set(map(id, variables))) < len(variables):
            raise RuleError("each variable is listed once, and at least one is")
        if of == "linear" and not is_linear(f, variables):
            raise RuleError(f"{f!r} is not linear in {variables[0]!r}")
        if of == "scalar" and f.dim != 1:
            raise RuleError(f"the formula must be a scalar, its dim is {f.dim}")
        return definition(f, v, *others)

    declare(
        Differential(
            name=name,
            doc=doc,
            arity=len(cases[0].dims),
            optional=optional,
            several=several,
            definition=checked,
            reference=reference,
            domain=REAL,
            cases=cases,
            of=of,
        )
    )


def _check_dim(e: Expr, dim: int, what: str) -> None:
    if e.dim not in (1, dim):
        raise RuleError(f"{what} has dim {e.dim}, it must be {dim} or 1")


def _opposite(f: Expr, v: Var) -> Expr:
    """The cotangent that is an argument of its own: after those of f, of the other axis than v."""
    if v.axis == "p":
        raise RuleError("with respect to a parameter the cotangent, a third formula, must be given")
    nodes = list(topological([f]))
    spend(len(nodes))
    position = 1 + max((node.position for node in nodes if isinstance(node, Var)), default=-1)
    axis: Axis = "j" if v.axis == "i" else "i"
    return variable(position, f.dim, axis)


def _grad(f: Expr, v: Var, e: Expr | None = None) -> Expr:
    cotangent = _opposite(f, v) if e is None else e
    _check_dim(cotangent, f.dim, "the cotangent")
    return vjp([(f, cotangent)], [v])[0]


def _diff(f: Expr, v: Formulas, u: Formulas) -> Expr:
    variables, tangents = (x if isinstance(x, tuple) else (x,) for x in (v, u))
    if len(variables) != len(tangents):
        raise RuleError(f"{len(variables)} variables have {len(tangents)} directions")
    for node, tangent in zip(variables, tangents, strict=True):
        _check_dim(tangent, node.dim, "the direction")
    return jvp(f, variables, tangents)


def _grad_matrix(f: Expr, v: Var) -> Expr:
    rows = [vjp([(f, apply("ElemT", constant(1.0), f.dim, k))], [v])[0] for k in range(f.dim)]
    while len(rows) > 1:
        pairs = [apply("Concat", *rows[k : k + 2]) for k in range(0, len(rows) - 1, 2)]
        rows = pairs + rows[len(rows) // 2 * 2 :]
    return rows[0]


def _trace_operator(f: Expr, v: Var, weight: Expr | None = None) -> Expr:
    weight = constant(1.0) if weight is None else weight
    _check_dim(weight, v.dim, "the weight")
    return trace(apply("SumT", f, v.dim) if f.dim == 1 else f, v, weight)


def _adjoint(f: Expr, v: Var, u: Expr) -> Expr:
    _check_dim(u, f.dim, "the operand of the adjoint")
    return vjp([(f, u)], [v])[0]


def _sum_lin(f: Expr, v: Var, left: Expr | None = None, right: Expr | None = None) -> Expr:
    left, right = (constant(1.0) if weight is None else weight for weight in (left, right))
    _check_dim(left, f.dim, "the left weight")
    _check_dim(right, v.dim, "the right weight")
    return apply("Sum", right * vjp([(f, left)], [v])[0])


def _left(J: Array, e: Array) -> Array:
    return np.asarray(np.einsum("...kl,...k->...l", J, np.broadcast_to(e, (*e.shape[:-1], J.shape[-2]))))


def _trace_reference(J: Array, weight: Array | float = 1.0) -> Array:
    square = np.broadcast_to(J, (*J.shape[:-2], J.shape[-1], J.shape[-1]))
    return np.asarray((weight * np.einsum("...kk->...k", square)).sum(-1, keepdims=True))


def _sum_lin_reference(J: Array, left: Array | float = 1.0, right: Array | float = 1.0) -> Array:
    rows = (J * (np.asarray(left)[..., None] if np.ndim(left) else left)).sum(-2)
    return np.asarray((rows * right).sum(-1, keepdims=True))


# fmt: off
differential("Grad",
             "gradient of a with respect to the variable b for the cotangent c; without c for one more argument, "
             "after those of a, that lies on the other axis than b",
             _grad, of="any", optional=1, reference=_left,
             cases=(Case((2, 3, 2)), Case((1, 3, 1)), Case((3, 1, 1))))

differential("Diff",
             "derivative of a when the variable b moves along c; b and c may be lists",
             _diff, of="any", several=(1, 2),
             reference=lambda J, u: np.einsum("...kl,...l->...k", J, u),
             cases=(Case((2, 3, 3)), Case((3, 1, 1))))

differential("GradMatrix",
             "Jacobian of a with respect to the variable b, row-major: row k is the gradient of component k",
             _grad_matrix, of="any",
             reference=lambda J: J.reshape(*J.shape[:-2], -1),
             cases=(Case((2, 3)), Case((1, 2)), Case((3, 3)), Case((5, 1))))

differential("Divergence",
             "trace of the Jacobian of a with respect to the variable b, which has the dim of a",
             lambda f, v: trace(f, v, constant(1.0)), of="any", reference=_trace_reference,
             cases=(Case((3, 3)), Case((1, 1))))

differential("Laplacian",
             "sum of the second derivatives of the scalar a by each component of the variable b",
             lambda f, v: trace(vjp([(f, constant(1.0))], [v])[0], v, constant(1.0)), of="scalar",
             reference=_trace_reference,
             cases=(Case((1, 3)), Case((1, 1))))

differential("TraceOperator",
             "trace of a as a linear map of the variable b, rows weighted by c; a scalar a stands for equal rows",
             _trace_operator, of="linear", optional=1, reference=_trace_reference,
             cases=(Case((3, 3, 3)), Case((1, 3, 3)), Case((3, 3, 1)), Case((1, 1, 1))))

differential("AdjointOperator",
             "the transpose of a, as a linear map of the variable b, applied to c",
             _adjoint, of="linear", reference=_left,
             cases=(Case((2, 3, 2)), Case((3, 1, 3))))

differential("SumLinOperator",
             "sum of the entries of the matrix of a, linear in the variable b; rows weighted by c, columns by d",
             _sum_lin, of="linear", optional=2, reference=_sum_lin_reference,
             cases=(Case((2, 3, 2, 3)), Case((2, 3, 1, 1)), Case((1, 3, 1, 3))))
# fmt: on
