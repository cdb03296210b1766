"""Program -> Tape: the scalar program as NumPy calls, each value a whole block of rows x columns.

A *cell* holds a number, a (rows, 1), a (1, cols) or a (rows, cols) array, by its level, or several of them for a
product of matrices. Calls of level `pair` write to *slots*, a few blocks that serve again as soon as nothing reads
them any more: that is what keeps the work inside the cache. Operands that need more slots are computed first, so
that few values wait at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .expr import Array
from .functions_numpy import FUNCTIONS, TRUTHS, product
from .lower import Level, Program
from .reductions import SUM
from .roll import places, roll
from .texts import Tree, parse

LEVELS: tuple[Level, ...] = ("constant", "p", "row", "col", "pair")


@dataclass(frozen=True)
class Load:
    """A component of an argument, `count` of them one after the other, or half of a row or column number."""

    cell: int
    position: int | None
    component: int
    half: str | None
    count: int = 1


@dataclass(frozen=True)
class Call:
    """`function(*reads)` into a cell."""

    function: Callable[..., Any]
    reads: tuple[int, ...]
    cell: int


@dataclass(frozen=True)
class Take:
    """Terms that the state takes in.

    Args:
        components: which ones they are of.
        term: the cell that holds them; or of a sum's components, what each is the product of with its factor.
        factors: the cell of as many rows of level col.
        is_free: whether nothing reads the term afterwards.
    """

    components: tuple[int, ...]
    term: int
    factors: int | None = None
    is_free: bool = False


@dataclass
class Tape:
    """What a block of rows and columns runs.

    Args:
        constants: cells that hold numbers.
        loads: by level; a parameter's, a row's or a column's.
        calls: by level, in order.
        pairs: calls of level pair, and what the state takes in as soon as it is there.
        weights: the cells of the weights; one holds all of them if `is_together`.
        slots: cell -> whether it is a block of truths rather than of numbers.
        cells: how many there are.
    """

    constants: dict[int, Any] = field(default_factory=dict)
    loads: dict[Level, list[Load]] = field(default_factory=lambda: {level: [] for level in LEVELS})
    calls: dict[Level, list[Call]] = field(default_factory=lambda: {level: [] for level in LEVELS})
    pairs: list[Call | Take] = field(default_factory=list)
    weights: tuple[int, ...] = ()
    is_together: bool = False
    slots: dict[int, bool] = field(default_factory=dict)
    cells: int = 0


def side_by_side(*values: Array) -> Array:
    """Columns of (rows, n)."""
    return np.concatenate(values, 1)


def one_below_the_other(*values: Array) -> Array:
    """Rows of (n, cols); numbers stand for a row of them."""
    cols = max(np.shape(value)[-1] for value in values if np.ndim(value))
    parts = [np.atleast_2d(value) for value in values]
    return np.concatenate([np.broadcast_to(part, (len(part), cols)) for part in parts])


def write(program: Program, dtype: str) -> Tape:
    """The tape of a program that computes in `dtype`."""
    return _Writer(program, np.dtype(dtype)).tape


class _Writer:
    """Numbers every value anew: equal calls are made once."""

    def __init__(self, program: Program, dtype: np.dtype[Any]) -> None:
        self.program, self.dtype = program, dtype
        self.tape = Tape()
        self.levels: list[Level] = []
        self.truths: set[int] = set()
        self.known: dict[Any, int] = {}
        self.cell_of: dict[int, int] = {}  # value of the program -> cell
        self.products = self.scalar_products()
        self.need = self.needs()
        self.tape.weights = self.weights()
        self.takes()
        self.tape.cells = len(self.levels)
        self.share_slots()

    # -- what is computed

    def scalar_products(self) -> dict[int, tuple[list[int], list[int]]]:
        """Sums over the products of a row's and a column's components: value -> those of both, for `matmul`."""
        found = {}
        for fold in roll(self.program).folds:
            kinds = [leaf.kind for leaf in fold.body.leaves]
            if fold.body.steps == (("$a * $b", (-1, -2)),) and sorted(kinds) == ["col", "row"]:
                vectors: dict[str, list[int]] = {}
                for leaf in fold.body.leaves:
                    numbers = list(places(self.program, "row" if leaf.kind == "row" else "col"))
                    first = numbers.index(leaf.value)
                    vectors[leaf.kind] = numbers[first : first + fold.body.count]
                found[fold.value] = vectors["row"], vectors["col"]
        return found

    def needs(self) -> list[int]:
        """How many slots each value takes at most while it is computed."""
        found: list[int] = []
        for number, value in enumerate(self.program.values):
            if value.level != "pair":
                found.append(0)
                continue
            args = () if number in self.products else value.args
            ordered = sorted((found[arg] for arg in set(args)), reverse=True)
            found.append(max([1, *(need + k for k, need in enumerate(ordered))]))
        return found

    def takes(self) -> None:
        """Write one per distinct component, or per pair value that components of a sum are products with."""
        shared: dict[tuple[int, bool], dict[int, int | None]] = {}
        for k, number in enumerate(self.program.components):
            term, factor = self.split(number)
            shared.setdefault((term, factor is not None), {})[k] = factor
        for (term, _), members in shared.items():
            factors = [factor for factor in members.values() if factor is not None]
            together = self.matrix(factors, "col") if factors else None
            self.tape.pairs.append(Take(tuple(members), self.value(term), together))

    def weights(self) -> tuple[int, ...]:
        weights = self.program.weights
        levels = {self.program.values[number].level for number in weights}
        if "col" in levels and not levels & {"row", "pair"}:
            self.tape.is_together = True
            return (self.matrix(weights, "col"),)
        return tuple(self.value(number) for number in weights)

    def matrix(self, numbers: Sequence[int], level: Level) -> int:
        """Values of one level in one cell: components that follow each other are read at once."""
        values = self.program.values
        runs: list[list[int]] = []
        for number in numbers:
            value, before = values[number], values[runs[-1][-1]] if runs else None
            follows = before is not None and value == replace(before, component=before.component + 1)
            if follows and value.is_load and value.level == level:
                runs[-1].append(number)
            else:
                runs.append([number])
        parts = [self.value(run[0]) if len(run) == 1 else self.loaded(run[0], len(run)) for run in runs]
        join = side_by_side if level == "row" else one_below_the_other
        return parts[0] if len(parts) == 1 else self.call(join, *parts)

    def split(self, number: int) -> tuple[int, int | None]:
        """A component of a sum as a pair value and a column value that it is the product of; or itself."""
        values = self.program.values
        if self.program.reduction is SUM and values[number].code == "$a * $b":
            by_level = {values[arg].level: arg for arg in values[number].args}
            if by_level.keys() == {"pair", "col"}:
                return by_level["pair"], by_level["col"]
        return number, None

    def value(self, root: int) -> int:
        """The cell of a value, with all that it needs written before."""
        stack = [root]
        while stack:
            number = stack[-1]
            args = self.operands(number)
            missing = [arg for arg in args if arg not in self.cell_of]
            if not missing:
                self.cell_of.setdefault(stack.pop(), self.written(number))
            else:
                stack += sorted(missing, key=lambda arg: self.need[arg])
        return self.cell_of[root]

    def operands(self, number: int) -> Sequence[int]:
        return () if number in self.products else self.program.values[number].args

    def written(self, number: int) -> int:
        if number in self.cell_of:
            return self.cell_of[number]
        value = self.program.values[number]
        if number in self.products:
            rows, columns = self.products[number]
            return self.call(product, self.matrix(rows, "row"), self.matrix(columns, "col"))
        if value.is_load:
            return self.loaded(number)
        names = dict(zip("abc", (self.cell_of[arg] for arg in value.args), strict=False))
        return self.expression(parse(value.code), names)

    def loaded(self, number: int, count: int = 1) -> int:
        value = self.program.values[number]
        key = (value.level, value.position, value.component, value.half, count)
        if key not in self.known:
            cell = self.known[key] = self.cell(value.level)
            self.tape.loads[value.level].append(Load(cell, value.position, value.component, value.half, count))
        return self.known[key]

    def expression(self, tree: Tree, names: dict[str, int]) -> int:
        if not isinstance(tree, tuple):
            key = ("number", float(tree).hex())
            if key not in self.known:
                self.known[key] = self.cell("constant")
                with np.errstate(over="ignore"):
                    self.tape.constants[self.known[key]] = self.dtype.type(tree)
            return self.known[key]
        head, *operands = tree
        if head == "$":
            return names[operands[0]]
        reads = [self.expression(operand, names) for operand in operands]
        cell = self.call(FUNCTIONS[head], *reads)
        if head in TRUTHS:
            self.truths.add(cell)
        return cell

    def call(self, function: Callable[..., Any], *reads: int) -> int:
        key = (function, reads)
        if key not in self.known:
            level = self.join(reads)
            cell = self.known[key] = self.cell(level)
            call = Call(function, reads, cell)
            if level == "pair":
                self.tape.pairs.append(call)
            else:
                self.tape.calls[level].append(call)
        return self.known[key]

    def join(self, reads: Sequence[int]) -> Level:
        present = {self.levels[cell] for cell in reads}
        if {"row", "col"} <= present:
            return "pair"
        return max(present, key=LEVELS.index)

    def cell(self, level: Level) -> int:
        self.levels.append(level)
        return len(self.levels) - 1

    # -- where it lies

    def share_slots(self) -> None:
        """Cells of level pair become slots, one of which holds several values one after the other."""
        pairs = self.tape.pairs
        last: dict[int, int] = {}
        for place, step in enumerate(pairs):
            reads = step.reads if isinstance(step, Call) else (step.term, *self.tape.weights)
            last.update(dict.fromkeys(reads, place))
        slot_of: dict[int, int] = {}
        free: dict[bool, list[int]] = {False: [], True: []}

        def release(reads: Sequence[int], place: int) -> None:
            for cell in set(reads):
                if self.levels[cell] == "pair" and last[cell] == place:
                    free[cell in self.truths].append(slot_of[cell])

        def renamed(reads: Sequence[int]) -> tuple[int, ...]:
            return tuple(slot_of.get(cell, cell) for cell in reads)

        for place, step in enumerate(pairs):
            if isinstance(step, Take):
                is_free = self.levels[step.term] == "pair" and last[step.term] == place
                is_free = is_free and step.term not in self.tape.weights
                term = slot_of.get(step.term, step.term)
                pairs[place] = Take(step.components, term, step.factors, is_free)
                release([step.term, *self.tape.weights], place)
                continue
            in_place = isinstance(step.function, np.ufunc)
            if in_place:
                release(step.reads, place)
            is_truth = step.cell in self.truths
            if free[is_truth]:
                slot = free[is_truth].pop()
            else:
                slot = self.tape.cells
                self.tape.cells += 1
                self.tape.slots[slot] = is_truth
            reads = renamed(step.reads)
            slot_of[step.cell] = slot
            pairs[place] = Call(step.function, reads, slot)
            if not in_place:
                release(step.reads, place)
        self.tape.weights = renamed(self.tape.weights)
