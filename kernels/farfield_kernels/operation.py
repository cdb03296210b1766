"""Spec -> Operation: what a call computes, which arrays it takes and which it returns.

A `Spec` is the words of a request, hashable and small: formula, variables, reduction, axis, and one list of
argument numbers per order of derivative. `read` turns it into an `Operation`, either a `Reduce` or the `Vjp` of
an operation. The vjp of an operation takes the operation's arguments, then the saved results its gradient needs,
then one cotangent per differentiable result; it returns one gradient per argument asked for. As that is an
operation again, every order of derivative comes from the same three rules; and as it is linear in the cotangent,
the vjp of a vjp with respect to that is the Jacobian-vector product (`Spec.jvp`).
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields, replace
from typing import Any, ClassVar, Literal

import numpy as np

from .errors import ArgumentError, FormulaError
from .expr import Axis, Expr
from .parse import parse_call
from .reductions import Reduction, Result

STORED = ("float16", "bfloat16", "float32", "float64")  # element types of arrays
DTYPES = ("float32", "float64")  # types that kernels compute in
INDEX_DTYPE = "int64"
MAX_ORDER = 4  # derivatives of derivatives in one request

NAN_POLICIES = ("propagate", "ignore")
SUM_SCHEMES = ("auto", "block_sum", "direct_sum", "kahan_scheme")
ACCUMULATORS = ("auto", "float16", "float32", "float64")
SEPARATIONS = ("auto", "on", "off")


@dataclass(frozen=True)
class Spec:
    """The words of one call.

    Args:
        formula: such as `Square(p-a)*Exp(x+y)`.
        variables: one declaration per argument, such as `x = Vi(3)`.
        reduction: such as `Sum`; None if the formula names it itself, as in `Sum_Reduction(x+y, 0)`.
        axis: the axis summed away: 1 reduces over j and keeps i, 0 reduces over i and keeps j, None reduces over
            both.
        wrt: per order of derivative, the argument numbers whose gradients are asked for.
        formula2: the weights of a weighted reduction.
        opt_arg: how many terms KMin and KMax select.
        nan_policy: whether NaN wins every selection (`propagate`, as in NumPy) or none (`ignore`).
        sum_scheme: `kahan_scheme` carries rounding errors along; all others are sums of blocks in double.
        dtype_acc: `float64` asks for sums of float32 that are as exact as if made in double.
        saving: return all results that the gradient needs, after those of the reduction itself.
        separation: whether a sum of products of a row's and a column's part may be computed in M + N steps:
            `auto` where it saves time and loses no accuracy, `on` wherever it loses none, `off` never.
    """

    formula: str
    variables: tuple[str, ...]
    reduction: str | None = "Sum"
    axis: int | None = 1
    wrt: tuple[tuple[int, ...], ...] = ()
    formula2: str | None = None
    opt_arg: int | None = None
    nan_policy: str = "propagate"
    sum_scheme: str = "auto"
    dtype_acc: str = "auto"
    saving: bool = False
    separation: str = "auto"
    _hash: ClassVar[int]

    def __post_init__(self) -> None:
        for field in ("formula", "reduction", "formula2"):
            value = getattr(self, field)
            if not isinstance(value, str) and (value is not None or field == "formula"):
                raise FormulaError(f"{field} is a {type(value).__name__}, a string is needed", field=field)
        variables = self.variables
        if isinstance(variables, str) or not isinstance(variables, Iterable):
            raise FormulaError("variables are a list of declarations such as ['x = Vi(3)']", field="variables")
        object.__setattr__(self, "variables", tuple(variables))
        for place, text in enumerate(self.variables):
            if not isinstance(text, str):
                raise FormulaError(f"a declaration is a {type(text).__name__}", field=f"variables[{place}]")
        for field in ("axis", "opt_arg"):
            if getattr(self, field) is not None:
                object.__setattr__(self, field, _integer(getattr(self, field), field))
        allowed = {
            "nan_policy": NAN_POLICIES,
            "sum_scheme": SUM_SCHEMES,
            "dtype_acc": ACCUMULATORS,
            "separation": SEPARATIONS,
        }
        for field, words in allowed.items():
            if getattr(self, field) not in words:
                raise ArgumentError(
                    f"{field} is {getattr(self, field)!r}, it is one of {', '.join(words)}", field=field
                )
        orders = tuple(_integers(order) for order in self.wrt)
        object.__setattr__(self, "wrt", orders)
        object.__setattr__(self, "_hash", hash(astuple(self)))

    def __hash__(self) -> int:
        """Made once: a spec is looked up in several tables per call."""
        return self._hash

    def __reduce__(self) -> tuple[type[Spec], tuple[Any, ...]]:
        return Spec, astuple(self)  # hashes of texts differ from process to process

    def vjp(self, wrt: Iterable[int]) -> Spec:
        """The spec of the vector-Jacobian product of this call with respect to the arguments `wrt`.

        It takes this call's arguments, the results that `read(spec).of.saved` numbers, and one cotangent per
        differentiable result. Where the gradient needs a result that the call does not return (the place of a
        maximum), those are the results of `forward()`.
        """
        return replace(self, wrt=(*self.wrt, _integers(wrt)))

    def jvp(self, wrt: Iterable[int]) -> Spec:
        """The spec of the Jacobian-vector product: `vjp` with respect to the cotangents of `vjp`.

        It takes what `vjp(wrt)` takes (the cotangents count for nothing), then one tangent per entry of `wrt`; it
        returns one tangent per differentiable result.
        """
        first = self.vjp(wrt)
        operation = read(first)
        assert isinstance(operation, Vjp)
        total = len(operation.arguments)
        return first.vjp(range(total - operation.cotangents, total))

    def forward(self) -> Spec:
        """The spec of the call itself, with all results that its gradient needs."""
        return replace(self, wrt=(), saving=True)

    def changed(self) -> dict[str, Any]:
        """The fields that differ from their defaults, as the wire carries them."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            field.name: found[field.name]
            for field in fields(self)
            if field.name in ("formula", "variables") or found[field.name] != field.default
        }


def _integer(value: object, what: str) -> int:
    """A Python int: from any integer type, but not from a bool or a float that happens to be whole."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ArgumentError(f"{what} is {value!r}, an integer is needed", field=what)
    return operator.index(value)


def _integers(values: object) -> tuple[int, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ArgumentError(f"wrt is {values!r}, a list of argument numbers is needed", field="wrt")
    return tuple(_integer(value, "wrt") for value in values)


@dataclass(frozen=True)
class Slot:
    """One array of a call: rows of `axis` (`p`: one row), each of shape `tail`, floats or int64.

    Args:
        index: `index` for row or column numbers and counts, `pair` for numbers of pairs (i, j), which are
            i * N + j; empty for floats.
    """

    name: str
    axis: Axis
    tail: tuple[int, ...]
    index: Literal["", "index", "pair"] = ""

    @property
    def dim(self) -> int:
        """Components per row."""
        return int(np.prod(self.tail, dtype=int))

    @property
    def is_index(self) -> bool:
        """Integers, without derivative."""
        return bool(self.index)

    @property
    def width(self) -> int:
        """Floats per row as kernels read it: an index is its high and its low half, for one axis or for two."""
        return self.dim * {"": 1, "index": 2, "pair": 4}[self.index]

    def shape(self, M: int, N: int, batch: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Shape of the array: batch, then M, N or nothing, then `tail`."""
        rows = () if self.axis == "p" else (M if self.axis == "i" else N,)
        return (*batch, *rows, *self.tail)

    def dtype(self, dtype: str) -> str:
        """Element type of the array in a call whose floats are `dtype`."""
        return INDEX_DTYPE if self.is_index else dtype


@dataclass(frozen=True, eq=False)
class Reduce:
    """One reduction of one formula.

    Args:
        saving: the same with the results that the gradient needs; what `Vjp.of` refers to.
    """

    formula: Expr
    weights: Expr | None
    reduction: Reduction
    over: Literal["i", "j"] | None
    K: int
    arguments: tuple[Slot, ...]

    @property
    def keep(self) -> Axis:
        """The axis of the results; `p` if both are reduced."""
        return "p" if self.over is None else "j" if self.over == "i" else "i"

    @functools.cached_property
    def results(self) -> tuple[Slot, ...]:
        """One array per result of the reduction."""
        W = self.summed_weights.dim if self.summed_weights else 0
        return tuple(
            Slot("result", self.keep, result.tail(self.formula.dim, self.K, W), self._index(result))
            for result in self.reduction.results
        )

    @property
    def summed_weights(self) -> Expr | None:
        """The weights as the reduction sums them."""
        return self.reduction.prepare(self.weights) if self.reduction.prepare else self.weights

    def _index(self, result: Result) -> Literal["", "index", "pair"]:
        if not result.is_index:
            return ""
        return "pair" if self.over is None and result.kind == "column" else "index"

    @property
    def saved(self) -> tuple[int, ...]:
        """Which results the vjp takes besides the arguments."""
        return self.reduction.saves

    @property
    def selects(self) -> bool:
        """Whether it goes by places that a reduction saved: no, it finds them."""
        return False

    @property
    def saving(self) -> Reduce:
        """This reduction with all results that its gradient needs."""
        return replace(self, reduction=self.reduction.saving) if self.reduction.saving else self


@dataclass(frozen=True, eq=False)
class Vjp:
    """Gradients of `of` with respect to its arguments `wrt`."""

    of: Operation
    wrt: tuple[int, ...]

    @functools.cached_property
    def arguments(self) -> tuple[Slot, ...]:
        """Those of `of`, its saved results, one cotangent per differentiable result."""
        results = self.of.results
        saved = tuple(results[place] for place in self.of.saved)
        return self.of.arguments + saved + tuple(slot for slot in results if not slot.is_index)

    @property
    def cotangents(self) -> int:
        """How many of the arguments, the last ones, are cotangents."""
        return sum(not slot.is_index for slot in self.of.results)

    @functools.cached_property
    def results(self) -> tuple[Slot, ...]:
        """One gradient per argument in `wrt`, of its shape."""
        return tuple(self.of.arguments[place] for place in self.wrt)

    @property
    def saved(self) -> tuple[int, ...]:
        """None: a gradient is an explicit formula of its arguments."""
        return ()

    @property
    def selects(self) -> bool:
        """Whether it goes by places that a reduction saved, so that no pair may be met twice."""
        of = self.of
        if isinstance(of, Vjp):
            return of.selects
        return any(of.reduction.results[place].kind == "column" for place in of.saved)

    @property
    def saving(self) -> Vjp:
        """Itself."""
        return self


Operation = Reduce | Vjp


@dataclass(frozen=True)
class Outline:
    """What a call takes and gives, without what it computes.

    Args:
        arguments, results: of the operation.
        wrt: of a gradient, the arguments whose shapes its results have; None of a reduction.
    """

    arguments: tuple[Slot, ...]
    results: tuple[Slot, ...]
    wrt: tuple[int, ...] | None


def outline(operation: Operation) -> Outline:
    """That of an operation."""
    wrt = operation.wrt if isinstance(operation, Vjp) else None
    return Outline(operation.arguments, operation.results, wrt)


@functools.lru_cache(maxsize=1024)
def read(spec: Spec) -> Operation:
    """Check the words of a call and build its operation. Cached: the same spec is read once.

    Raises:
        FormulaError: formula, variables, reduction or axis are wrong.
        ArgumentError: `wrt` names an argument that does not exist or has no gradient.
    """
    words = parse_call(spec.formula, spec.variables, spec.reduction, spec.axis, spec.formula2, spec.opt_arg)
    reduction = _chosen(words.reduction, spec, weighted=words.formula2 is not None)
    if reduction.is_weighted and words.formula.dim != 1:
        raise FormulaError(
            f"{reduction.name} takes a scalar formula, this one has dim {words.formula.dim}",
            text=spec.formula,
            position=0,
            field="formula",
        )
    slots = tuple(Slot(found.name, found.axis, (found.dim,)) for found in words.variables)
    over: Literal["i", "j"] | None = None if words.axis is None else "j" if words.axis == 1 else "i"
    K = words.opt_arg or 1
    operation: Operation = Reduce(words.formula, words.formula2, reduction, over, K, slots)
    if len(spec.wrt) > MAX_ORDER:
        raise ArgumentError(f"order {len(spec.wrt)} is above {MAX_ORDER}", field="wrt", limit=MAX_ORDER)
    if spec.saving:
        operation = operation.saving
    for wrt in spec.wrt:
        operation = _vjp(operation.saving, wrt)
    return operation


def _chosen(reduction: Reduction, spec: Spec, *, weighted: bool) -> Reduction:
    """The variant of a reduction that the words ask for."""
    name = reduction.name
    if weighted and reduction.weighted:
        reduction = reduction.weighted
    if spec.nan_policy == "ignore":
        if reduction.ignoring is None:
            raise ArgumentError(f"{name} has no nan_policy 'ignore'", field="nan_policy")
        reduction = reduction.ignoring
    if spec.sum_scheme == "kahan_scheme" or spec.dtype_acc == "float64":
        reduction = reduction.compensated or reduction
    return reduction


def _vjp(operation: Operation, wrt: tuple[int, ...]) -> Vjp:
    if isinstance(operation, Reduce) and operation.reduction.gradient is None:
        raise ArgumentError(f"the results of {operation.reduction.name} have no gradient", field="reduction")
    arguments = operation.arguments
    if not wrt or len(set(wrt)) < len(wrt):
        raise ArgumentError(f"wrt names each argument once and at least one, got {list(wrt)}", field="wrt")
    for place in wrt:
        if not 0 <= place < len(arguments):
            raise ArgumentError(f"wrt {place} is not one of 0..{len(arguments) - 1}", field="wrt")
        if arguments[place].is_index:
            raise ArgumentError(f"argument {place} holds indices and has no gradient", field="wrt")
    return Vjp(operation, wrt)
