"""The two usual kinds of declaration: operators on each component alone, and operators defined by a formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..domains import REAL, Array, Case, Domain
from ..expr import Core, Derived, Emit, Expr, broadcast, declare

Dims = tuple[int, ...]
Params = tuple[Any, ...]

UNARY_CASES = (Case((1,)), Case((3,)))
BINARY_CASES = (Case((3, 3)), Case((1, 3)), Case((3, 1)), Case((1, 1)))
TERNARY_CASES = (Case((3, 3, 3)), Case((1, 3, 3)), Case((3, 1, 1)), Case((3, 1, 3)), Case((1, 1, 1)))


def elementwise(
    name: str,
    doc: str,
    *,
    code: str,
    reference: Callable[..., Array],
    domain: Domain | tuple[Domain, ...],
    vjp: Callable[..., tuple[Expr | None, ...]],
    linear: tuple[tuple[int, ...], ...] = (),
) -> None:
    """Declare an operator that maps components; its arity is the number of placeholders in `code`."""
    arity = sum(place in code for place in ("$a", "$b", "$c"))

    def lower(emit: Emit, operands: list[list[int]], dim: int, params: Params) -> list[int]:
        return [emit(code, *(x[k % len(x)] for x in operands)) for k in range(dim)]

    declare(
        Core(
            name=name,
            doc=doc,
            arity=arity,
            reference=reference,
            domain=domain,
            cases=(UNARY_CASES, BINARY_CASES, TERNARY_CASES)[arity - 1],
            dim=broadcast,
            lower=lower,
            vjp=vjp,
            linear=linear,
        )
    )


def derived(
    name: str,
    doc: str,
    definition: Callable[..., Expr],
    *,
    reference: Callable[..., Array],
    cases: tuple[Case, ...],
    integers: tuple[str, ...] = (),
    domain: Domain | tuple[Domain, ...] = REAL,
    arity: int | None = None,
    optional: int = 0,
) -> None:
    """Declare an operator by its formula; its arity is that of the first case unless given."""
    arity = len(cases[0].dims) if arity is None else arity
    declare(
        Derived(
            name=name,
            doc=doc,
            arity=arity,
            integers=integers,
            optional=optional,
            definition=definition,
            reference=reference,
            domain=domain,
            cases=cases,
        )
    )
