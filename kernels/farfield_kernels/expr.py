"""Operators and operands -> Expr: an interned graph of vector-valued nodes.

A node is a variable, a constant, a row or column number, or an operator applied to nodes. Equal nodes are the
same object, so common subexpressions are shared by construction and identity is equality. The table of nodes
holds them weakly: a server that reads a million formulas keeps none of them.

Dims broadcast: an operand of dim 1 meets an operand of dim d as if repeated d times.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .domains import Array as Array
from .domains import Case, Domain
from .errors import RuleError

Axis = Literal["i", "j", "p"]

MAX_DIM = 65_536  # components of one node; a formula is a small program, not a data set
MAX_DEPTH = 2_000  # operators nested in one formula and its derivatives
MAX_NODES = 3_000  # nodes made and walked while one call is read, at about 9 us each


@dataclass(frozen=True, kw_only=True, eq=False)
class Operator:
    """What every operator declares, core or derived.

    Args:
        name: as written in formulas.
        doc: one line, completing "x is ...".
        arity: number of operands.
        reference: NumPy float64 meaning: operands (..., d_k), then the integers -> (..., d).
        domain: where the tests draw operands from; one per operand if they differ.
        cases: dims and integers that the tests cover.
        integers: names of the integer arguments after the operands; a name in brackets is a list of integers.
        optional: how many of the last arguments, operands or integers, may be left out.
        several: operands in whose place a list of formulas may stand.
    """

    name: str
    doc: str
    arity: int
    reference: Callable[..., Array]
    domain: Domain | tuple[Domain, ...]
    cases: tuple[Case, ...]
    integers: tuple[str, ...] = ()
    optional: int = 0
    several: tuple[int, ...] = ()

    @property
    def signature(self) -> str:
        """As a call is written, such as `Round(a, d)` or `Grad(a, b[, c])`."""
        names = [*"abcdefgh"[: self.arity], *self.integers]
        needed = len(names) - self.optional
        return f"{self.name}({', '.join(names[:needed])}{''.join(f'[, {name}]' for name in names[needed:])})"

    def domain_of(self, operand: int) -> Domain:
        """Where operand number `operand` is drawn from."""
        return self.domain[operand] if isinstance(self.domain, tuple) else self.domain


@dataclass(frozen=True, kw_only=True, eq=False)
class Core(Operator):
    """An operator with C text and a derivative of its own.

    Args:
        dim: (operand dims, params) -> dim; raises RuleError with a short reason.
        lower: (emit, operand scalars, dim, params) -> result scalars, where `emit(code, *scalars)` adds one
            scalar operation and `$a`, `$b`, `$c` in `code` stand for its operands.
        vjp: (cotangent, result, *operands, *params) -> cotangents of the operands, `None` where zero. The sweep
            undoes broadcasting; a rule never does.
        linear: groups of operands in which, taken together and the others held, the value is linear.
    """

    dim: Callable[[tuple[int, ...], tuple[Any, ...]], int]
    lower: Callable[[Emit, list[list[int]], int, tuple[Any, ...]], list[int]]
    vjp: Callable[..., tuple[Expr | None, ...]]
    linear: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Derived(Operator):
    """An operator defined by a formula over others: no C text and no derivative of its own."""

    definition: Callable[..., Expr]


Emit = Callable[..., int]

OPERATORS: dict[str, Operator] = {}
"""Every operator by name, filled by the modules of `operators`."""


def declare(operator: Operator) -> Operator:
    """Add an operator to the language; a name is declared once."""
    if operator.name in OPERATORS:
        raise ValueError(f"operator {operator.name} is declared twice")
    OPERATORS[operator.name] = operator
    return operator


class Expr:
    """One interned node. `op` is a `Core` operator, or None for the leaves `Var`, `Const` and `Index`."""

    __slots__ = ("__weakref__", "axes", "depth", "dim", "op", "operands", "params")

    op: Core | None
    operands: tuple[Expr, ...]
    params: tuple[Any, ...]
    dim: int
    axes: frozenset[Axis]
    depth: int

    def __add__(self, other: Expr | float) -> Expr:
        return apply("Add", self, other)

    def __radd__(self, other: float) -> Expr:
        return apply("Add", other, self)

    def __sub__(self, other: Expr | float) -> Expr:
        return apply("Subtract", self, other)

    def __rsub__(self, other: float) -> Expr:
        return apply("Subtract", other, self)

    def __mul__(self, other: Expr | float) -> Expr:
        return apply("Mult", self, other)

    def __rmul__(self, other: float) -> Expr:
        return apply("Mult", other, self)

    def __truediv__(self, other: Expr | float) -> Expr:
        return apply("Divide", self, other)

    def __rtruediv__(self, other: float) -> Expr:
        return apply("Divide", other, self)

    def __neg__(self) -> Expr:
        return apply("Minus", self)

    def __repr__(self) -> str:
        return format_expr(self)


class Var(Expr):
    """Argument number `position` of the call: a vector of `dim` components per row of its axis."""

    __slots__ = ()

    @property
    def position(self) -> int:
        """Which argument of the call this is, from 0."""
        return int(self.params[0])

    @property
    def axis(self) -> Axis:
        """`i`, `j`, or `p` for a parameter that both axes share."""
        axis: Axis = self.params[1]
        return axis


class Const(Expr):
    """A finite number, of dim 1 and of the kernel's type."""

    __slots__ = ()

    @property
    def value(self) -> float:
        """The number."""
        return float(self.params[0])


class Index(Expr):
    """Half of the row number (axis `i`) or column number (axis `j`), exact in every float type.

    The number is `high * 2**20 + low`; both halves stay below 2**24 for any array that fits in memory.
    """

    __slots__ = ()

    @property
    def axis(self) -> Axis:
        """`i` or `j`."""
        axis: Axis = self.params[0]
        return axis

    @property
    def half(self) -> str:
        """`high` or `low`."""
        return str(self.params[1])


INDEX_SHIFT = 20

_nodes: weakref.WeakValueDictionary[Hashable, Expr] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def _after_fork() -> None:
    # A lock that another thread of the parent held would stay locked in the child for ever.
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


_reading = threading.local()


@contextlib.contextmanager
def bounded(nodes: int) -> Iterator[None]:
    """Within this block at most `nodes` nodes may be made or walked; `RuleError` beyond."""
    before = getattr(_reading, "left", None)
    _reading.left = nodes
    try:
        yield
    finally:
        _reading.left = before


def spend(nodes: int) -> None:
    """Count nodes that are made or walked. A short text may stand for a long computation: it is stopped here.

    Raises:
        RuleError: more than the block around allows.
    """
    left = getattr(_reading, "left", None)
    if left is not None:
        _reading.left = left - nodes
        if left < nodes:
            reason = f"the call takes more than {MAX_NODES} operators in all, derivatives included"
            raise RuleError(reason, limit=MAX_NODES)


def _intern(
    kind: type[Expr],
    op: Core | None,
    operands: tuple[Expr, ...],
    params: tuple[Any, ...],
    dim: int,
    axes: Iterable[Axis],
) -> Any:
    if not 1 <= dim <= MAX_DIM:
        raise RuleError(f"dim {dim} is outside 1..{MAX_DIM}", limit=MAX_DIM if dim > MAX_DIM else None)
    spend(1)
    # Operands are compared by identity: hashing by structure is exponential on shared graphs.
    key = (kind, op, tuple(map(id, operands)), params, dim)
    with _lock:
        node = _nodes.get(key)
        if node is None:
            node = kind()
            node.op, node.operands, node.params, node.dim = op, operands, params, dim
            node.axes = frozenset(axes)
            node.depth = 1 + max((operand.depth for operand in operands), default=0)
            if node.depth > MAX_DEPTH:
                raise RuleError(f"more than {MAX_DEPTH} operators are nested", limit=MAX_DEPTH)
            _nodes[key] = node
    return node


def variable(position: int, dim: int, axis: Axis) -> Var:
    """The node of argument number `position`."""
    node: Var = _intern(Var, None, (), (position, axis), dim, (axis,))
    return node


def constant(value: float) -> Const:
    """The node of a finite number; `0.0`, `-0.0` and `0` are told apart by their bits, not by equality."""
    number = float(value)
    if not np.isfinite(number):
        raise RuleError(f"the constant {number} is not finite")
    node: Const = _intern(Const, None, (), (_Bits(number),), 1, ())
    return node


class _Bits(float):
    """A float that is equal to another only if all its bits are."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Bits) and self.hex() == other.hex()

    def __hash__(self) -> int:
        return hash(self.hex())


def index(axis: Axis, half: Literal["high", "low"]) -> Index:
    """The node of half of a row or column number."""
    node: Index = _intern(Index, None, (), (axis, half), 1, (axis,))
    return node


def as_expr(value: Expr | float) -> Expr:
    """`value` itself, or the constant it stands for."""
    return value if isinstance(value, Expr) else constant(value)


def apply(name: str, *arguments: Any, params: tuple[Any, ...] | None = None) -> Expr:
    """Apply an operator to operands (nodes or numbers) followed by its integer arguments.

    Args:
        name: a declared operator.
        arguments: `arity` operands, then one int, or tuple of them, per entry of `integers`; the last `optional`
            ones may be missing. Where an operand may be `several`, a tuple of nodes.
        params: instead of integers, the parameters of an operator that formulas cannot name.

    Raises:
        RuleError: number of arguments, or dims that do not fit, as a short reason.
    """
    op = OPERATORS[name]
    expected = op.arity + (0 if params is not None else len(op.integers))
    if not expected - op.optional <= len(arguments) <= expected:
        raise RuleError(f"takes {_listed(op)}, got {len(arguments)} arguments")
    operands: tuple[Any, ...] = tuple(x if isinstance(x, tuple) else as_expr(x) for x in arguments[: op.arity])
    integers = params if params is not None else tuple(arguments[op.arity :])
    if isinstance(op, Derived):
        return op.definition(*operands, *integers)
    assert isinstance(op, Core)
    dim = op.dim(tuple(operand.dim for operand in operands), integers)
    node: Expr = _intern(Expr, op, operands, integers, dim, frozenset().union(*(x.axes for x in operands)))
    return node


def _listed(op: Operator) -> str:
    formulas = f"{op.arity} formula{'s' * (op.arity != 1)}"
    integers = f" and the integers {', '.join(op.integers)}" if op.integers else ""
    return formulas + integers + (f", as {op.signature}" if op.optional else "")


def broadcast(dims: tuple[int, ...], params: tuple[Any, ...] = ()) -> int:
    """Dim rule of elementwise operators: all dims equal, or 1."""
    wide = {dim for dim in dims if dim != 1}
    if len(wide) > 1:
        named = " and ".join(str(dim) for dim in dims)
        raise RuleError(f"dims {named} differ and neither is 1")
    return wide.pop() if wide else 1


def topological(roots: Iterable[Expr]) -> Iterator[Expr]:
    """Every node below `roots` once, operands before their users. Not recursive: graphs may be deep."""
    seen: set[int] = set()
    stack: list[tuple[Expr, bool]] = [(root, False) for root in reversed(list(roots))]
    while stack:
        node, ready = stack.pop()
        if ready:
            yield node
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((operand, False) for operand in reversed(node.operands))


def transform(root: Expr, rebuild: Callable[[Expr, tuple[Expr, ...]], Expr]) -> Expr:
    """Rebuild a graph bottom up: `rebuild(node, new operands)` gives the replacement of each node."""
    new: dict[int, Expr] = {}
    for node in topological([root]):
        new[id(node)] = rebuild(node, tuple(new[id(operand)] for operand in node.operands))
    return new[id(root)]


def with_operands(node: Expr, operands: tuple[Expr, ...]) -> Expr:
    """The same operator on other operands; `node` itself if they are the same."""
    if all(new is old for new, old in zip(operands, node.operands, strict=True)):
        return node
    assert node.op is not None
    return apply(node.op.name, *operands, params=node.params)


MAX_SHOWN = 30  # nodes of a formula in one message


def format_expr(root: Expr, names: dict[int, str] | None = None) -> str:
    """The formula as text, without the shared structure; what goes beyond `MAX_SHOWN` nodes is cut."""
    left = MAX_SHOWN  # written out, a shared graph may be exponentially larger than it is

    def text(node: Expr) -> str:
        nonlocal left
        left -= 1
        if left < 0:
            return "..."
        if isinstance(node, Var):
            return (names or {}).get(node.position, f"{node.axis}{node.position}")
        if isinstance(node, Const):
            return f"{node.value:g}"
        if isinstance(node, Index):
            return f"{node.axis.upper()}.{node.half}"
        assert node.op is not None
        parts = [text(operand) for operand in node.operands]
        return f"{node.op.name}({', '.join([*parts, *(str(p) for p in node.params)])})"

    return text(root)
