"""Terms -> Program: the scalar program of one kernel, in SSA form, each value at its level.

A kernel gives each *row* (an index of the kept axis) the reduction over all *columns* (the other axis). A value's
level says how often it must be computed: `constant`, `p` once per call, `row` once per row, `col` once per
column, `pair` for each row and column. Only the last is paid M x N times.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from .errors import LimitError
from .expr import Axis, Const, Expr, Index, Var, topological
from .reductions import COMPENSATED_SUM, SUM, Field, Reduction, Result
from .terms import Term

Level = Literal["constant", "p", "row", "col", "pair"]

MAX_VALUES = 10_000  # scalar operations of one kernel; a compiler takes 2 to 5 ms for each

LOG2_E = "1.4426950408889634"

MAX_SCALARS = 100_000  # components of all nodes together: values may be shared, the work of lowering is not


@dataclass(frozen=True)
class Value:
    """One scalar: `code` with `$a`, `$b`, `$c` for `args`, or a component of argument `position`, or half of an
    index."""

    level: Level
    code: str = ""
    args: tuple[int, ...] = ()
    position: int | None = None
    component: int = 0
    half: str | None = None

    @property
    def argument(self) -> int:
        """The position of the argument that a load reads."""
        assert self.position is not None
        return self.position

    @property
    def is_load(self) -> bool:
        """Read rather than computed."""
        return not self.code


@dataclass(frozen=True)
class Output:
    """One array that a kernel writes, of `width` numbers per row: result `result` of the components `first` to
    `first + count - 1`.

    A parameter's gradient (`is_sum`) is written per row in double and summed over rows afterwards.
    """

    first: int
    count: int
    result: Result
    width: int
    is_sum: bool = False

    @property
    def is_index(self) -> bool:
        """Written as int64."""
        return self.result.is_index


@dataclass(frozen=True)
class Program:
    """One kernel: the reduction of `components`, which are values, over the columns.

    Args:
        weights: the values of a weighted reduction's second formula.
        K: how many terms are selected.
        over_rows: the rows are reduced too, by merging their states.
        widths: the dim of every argument that is read, by position.
    """

    values: tuple[Value, ...]
    components: tuple[int, ...]
    weights: tuple[int, ...]
    K: int
    reduction: Reduction
    outputs: tuple[Output, ...]
    row_axis: Axis
    over_rows: bool
    widths: tuple[tuple[int, int], ...]

    def at(self, level: Level) -> list[int]:
        """The values of one level, operands first."""
        return [number for number, value in enumerate(self.values) if value.level == level]

    def kept(self, level: Level) -> list[int]:
        """The values of level `row` or `col` that the pair level reads: they live in registers or in a tile."""
        used = {arg for number in self.at("pair") for arg in self.values[number].args}
        used.update(self.components)
        used.update(self.weights)
        return [number for number in self.at(level) if number in used]

    def entries(self, field: Field) -> int:
        """How many numbers a field of the state of one component has."""
        return {"": 1, "K": self.K, "W": len(self.weights)}[field.each]

    @property
    def state_size(self) -> int:
        """Numbers of the state of one component."""
        return sum(self.entries(field) for field in self.reduction.state)


def lower(terms: Sequence[Term], row_axis: Axis) -> Program:
    """Lower terms with one reduction and one kept axis (or none) to one program.

    Several terms are all plain sums; they may keep none or `row_axis`, and those that keep none are then outputs
    that the caller sums over rows.

    Raises:
        LimitError: more than `MAX_VALUES` scalar operations.
    """
    builder = _Builder(row_axis)
    first = terms[0]
    scalars = builder.lower([*(term.formula for term in terms), *([first.weights] if first.weights else [])])
    reduction = first.reduction
    weights = scalars.pop() if first.weights else []
    over_rows = first.keep == "p" and reduction not in (SUM, COMPENSATED_SUM)
    components: list[int] = []
    outputs = []
    for term, term_values in zip(terms, scalars, strict=True):
        assert term.reduction is reduction
        outputs += [
            Output(
                len(components),
                len(term_values),
                result,
                result.width(len(term_values), term.K, len(weights)),
                is_sum=term.keep == "p" and not over_rows,
            )
            for result in reduction.results
        ]
        components += term_values
    if len(components) * first.K + len(weights) > MAX_VALUES:
        raise LimitError(
            f"the state of a kernel has at most {MAX_VALUES} numbers per row, this one more: "
            f"{len(components)} components, {len(weights)} weights, K = {first.K}",
            field="formula",
            limit=MAX_VALUES,
        )
    values, numbers = builder.compact([*components, *weights])
    return Program(
        values=values,
        components=tuple(numbers[component] for component in components),
        weights=tuple(numbers[weight] for weight in weights),
        K=first.K,
        reduction=reduction,
        outputs=tuple(outputs),
        row_axis=row_axis,
        over_rows=over_rows,
        widths=tuple(sorted(builder.widths.items())),
    )


class _Builder:
    """Value numbering: an operation on the same operands is emitted once."""

    def __init__(self, row_axis: Axis) -> None:
        self.row_axis = row_axis
        self.values: list[Value] = []
        self.numbers: dict[Value, int] = {}
        self.widths: dict[int, int] = {}

    def lower(self, roots: Sequence[Expr]) -> list[list[int]]:
        scalars: dict[int, list[int]] = {}
        written = sum(root.dim for root in roots)
        for node in topological(roots):
            written += node.dim
            if written > MAX_SCALARS:
                raise LimitError(
                    f"the formula has more than {MAX_SCALARS} components in all",
                    field="formula",
                    limit=MAX_SCALARS,
                )
            if node.op is None:
                scalars[id(node)] = self.leaf(node)
            else:
                operands = [scalars[id(operand)] for operand in node.operands]
                scalars[id(node)] = node.op.lower(self.emit, operands, node.dim, node.params)
        return [scalars[id(root)] for root in roots]

    def emit(self, code: str, *args: int) -> int:
        level = self.join([self.values[arg].level for arg in args])
        if level == "pair" and code in ("-$a", "exp($a)"):
            factored = self.factored(args[0])
            if factored and code == "-$a":
                return self.emit("$a * $b", self.emit("-$a", factored[0]), factored[1])
            if factored:
                return self.emit("exp2($a)", self.emit("$a * $b", self.in_base_2(factored[0]), factored[1]))
        return self.add(Value(level, code, args))

    def factored(self, number: int) -> tuple[int, int] | None:
        """A value as a product whose first factor is not one of pairs: what is done to that costs little."""
        value = self.values[number]
        if value.code == "-$a" and self.is_sum_of_products(value.args[0]):
            return self.emit("K(-1)"), value.args[0]
        for place, factor in enumerate(value.args if value.code == "$a * $b" else ()):
            if self.values[factor].level != "pair":
                return factor, value.args[1 - place]
        return None

    def is_sum_of_products(self, number: int) -> bool:
        """Such as a squared distance: rounded as often as one more factor would."""
        value = self.values[number]
        if value.code == "$a + $b":
            return self.values[value.args[1]].code in ("$a * $b", "$a * $a")
        return value.code == "$a * $b + $c"

    def in_base_2(self, factor: int) -> int:
        """The factor of an exponent, for exp2 instead of exp; one too large for that stays as it is."""
        scaled = self.emit(f"$a * K({LOG2_E})", factor)
        return self.emit("$a - $a == K(0) ? $a : $b", scaled, factor)

    def leaf(self, node: Expr) -> list[int]:
        if isinstance(node, Const):
            return [self.emit(f"K({node.value!r})")]
        if isinstance(node, Index):
            return [self.add(Value(self.level(node.axis), half=node.half))]
        assert isinstance(node, Var)
        self.widths[node.position] = node.dim
        level = self.level(node.axis)
        return [self.add(Value(level, position=node.position, component=k)) for k in range(node.dim)]

    def level(self, axis: Axis) -> Level:
        return "p" if axis == "p" else "row" if axis == self.row_axis else "col"

    @staticmethod
    def join(levels: Iterable[Level]) -> Level:
        present = set(levels)
        if "pair" in present or {"row", "col"} <= present:
            return "pair"
        singles: tuple[Level, ...] = ("row", "col", "p")
        return next((level for level in singles if level in present), "constant")

    def add(self, value: Value) -> int:
        number = self.numbers.get(value)
        if number is None:
            number = self.numbers[value] = len(self.values)
            self.values.append(value)
            if number >= MAX_VALUES:
                raise LimitError(
                    f"the formula takes more than {MAX_VALUES} scalar operations",
                    field="formula",
                    limit=MAX_VALUES,
                )
        return number

    def compact(self, roots: Sequence[int]) -> tuple[tuple[Value, ...], dict[int, int]]:
        """Drop the values that no root needs and number the rest anew, in order."""
        needed: set[int] = set()
        stack = list(roots)
        while stack:
            number = stack.pop()
            if number not in needed:
                needed.add(number)
                stack.extend(self.values[number].args)
        numbers = {old: new for new, old in enumerate(sorted(needed))}
        values = []
        for old in sorted(needed):
            value = self.values[old]
            args = tuple(numbers[arg] for arg in value.args)
            values.append(Value(value.level, value.code, args, value.position, value.component, value.half))
        read = {value.position for value in values if value.position is not None}
        self.widths = {position: dim for position, dim in self.widths.items() if position in read}
        return tuple(values), numbers
