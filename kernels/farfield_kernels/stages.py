"""Operation -> Plan: the kernels of a call, as source.

Terms that keep the same axis are one kernel. Where a sum over columns separates (see `separate.py`), its stage has
a second way to the same results, by passes over columns and over rows: `Stage.separated`, written when first asked
for.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from .emit import emit
from .errors import FormulaError, LimitError, RuleError
from .expr import Axis, Const, Expr
from .lower import Program, lower
from .operation import Operation, Spec, read
from .reductions import COMPENSATED_SUM, REDUCTIONS, SUM
from .rewrite import rewrite
from .schedule import Device, Schedule, for_few_rows, plan
from .schedule_contraction import plan_contraction
from .separate import LEAST_PAIRS, Separation, separate
from .terms import Term, expand


@dataclass(frozen=True, eq=False)
class Emitted:
    """One kernel as text."""

    program: Program
    schedule: Schedule
    source: str

    @property
    def parts(self) -> tuple[Program, Schedule, str]:
        """What a kernel is made from."""
        return self.program, self.schedule, self.source


@dataclass(frozen=True, eq=False)
class Separated:
    """The same results as a stage's, without visiting every pair; all computed in float64.

    Args:
        separations: one per term of the stage.
        columns: the column passes of all, in order; each writes one row, which the later kernels read as one more
            argument.
        rows: the row pass: one output per term, then how many components of each row are refused.
    """

    separations: tuple[Separation, ...]
    columns: tuple[Emitted, ...]
    rows: Emitted

    @property
    def kernels(self) -> tuple[Emitted, ...]:
        """All of them, the row pass last."""
        return (*self.columns, self.rows)

    def saves(self, rows: int, cols: int) -> bool:
        """Whether the passes cost less than the pairs, for so many rows and columns."""
        return all(separation.saves(rows, cols) for separation in self.separations)


@dataclass(frozen=True, eq=False)
class Stage:
    """One kernel of a call, and which result each of its outputs is.

    Args:
        emitted: the kernel that visits every pair.
        terms: what it reduces, rewritten.
        arguments: number of arguments of the call.
    """

    emitted: Emitted
    terms: tuple[Term, ...]
    results: tuple[int, ...]
    arguments: int
    _others: dict[Schedule, Emitted] = field(default_factory=dict, repr=False)

    @property
    def program(self) -> Program:
        """What the kernel computes."""
        return self.emitted.program

    def by(self, schedule: Schedule) -> Emitted:
        """The kernel that visits every pair, by another schedule."""
        if schedule == self.emitted.schedule:
            return self.emitted
        if schedule not in self._others:
            self._others[schedule] = Emitted(self.program, schedule, emit(self.program, schedule))
        return self._others[schedule]

    @functools.cached_property
    def for_few_rows(self) -> Emitted | None:
        """The kernel that is faster for few rows, if the reduction allows one."""
        schedule = for_few_rows(self.program, self.emitted.schedule)
        return self.by(schedule) if schedule else None

    @functools.cached_property
    def contraction(self) -> Schedule | None:
        """The schedule on tensor cores, if there is one."""
        return plan_contraction(self.program, self.emitted.schedule)

    @functools.cached_property
    def separated(self) -> Separated | None:
        """The way by passes, if all terms separate."""
        schedule, row_axis = self.emitted.schedule, self.program.row_axis
        separations: list[Separation] = []
        next_argument = self.arguments
        for term in self.terms:
            is_sum = term.reduction is SUM
            found = separate(term.formula, row_axis, next_argument, schedule.dtype) if is_sum else None
            if found is None:
                return None
            separations.append(found)
            next_argument += len(found.columns)

        def emitted(terms: Sequence[Term], results: str, *, is_one_row: bool) -> Emitted:
            program = lower(terms, row_axis)
            passes = plan(program, schedule.device, "float64", stored=self._stored, results=results)
            if is_one_row:
                passes = for_few_rows(program, passes) or passes
            return Emitted(program, passes, emit(program, passes))

        powers = REDUCTIONS["Max_SumShiftExpWeight"]
        columns = [
            Term(column_pass.weights, SUM, row_axis)
            if column_pass.exponent is None
            else Term(column_pass.exponent, powers, row_axis, column_pass.weights)
            for separation in separations
            for column_pass in separation.columns
        ]
        rows = [
            Term(separation.results, SUM, term.keep)
            for term, separation in zip(self.terms, separations, strict=True)
        ]
        refused = functools.reduce(Expr.__add__, (separation.refused for separation in separations))
        try:
            return Separated(
                tuple(separations),
                tuple(emitted([term], "float64", is_one_row=True) for term in columns),
                emitted([*rows, Term(refused, SUM, "p")], schedule.dtype, is_one_row=False),
            )
        except LimitError:
            return None

    def passes(self, rows: int, cols: int, separation: str) -> Separated | None:
        """The passes that replace the kernel for so many rows and columns, if asked for or worth while."""
        if separation == "off" or rows * cols < (LEAST_PAIRS if separation == "auto" else 1):
            return None
        found = self.separated
        return found if found is not None and (separation == "on" or found.saves(rows, cols)) else None

    def _stored(self, position: int) -> str:
        """Element type of an argument of a pass: what column passes wrote is float64."""
        return self.emitted.schedule.dtype if position < self.arguments else "float64"


@dataclass(frozen=True, eq=False)
class Plan:
    """All kernels of a call. Results in no kernel are zero whatever the data."""

    operation: Operation
    stages: tuple[Stage, ...]
    zeros: tuple[int, ...]


@functools.lru_cache(maxsize=512)
def plan_call(spec: Spec, dtype: str, device: Device) -> Plan:
    """The kernels of a call, as source. Cached."""
    operation = read(spec)
    try:
        terms = [simplified(term) for term in expand(operation)]
    except RuleError as reason:
        sentence = f"its derivative cannot be written: {reason}"
        raise FormulaError(sentence, text=spec.formula, field="formula", limit=reason.limit) from None
    first_result, place = [], 0
    for term in terms:
        first_result.append(place)
        place += len(term.reduction.results)
    constant_zero = {n for n, term in enumerate(terms) if _is_zero(term)}
    stages = []
    for row_axis in ("i", "j"):
        members = [n for n, axis in _row_axes(terms).items() if axis == row_axis and n not in constant_zero]
        if members:
            own = tuple(terms[n] for n in members)
            program = lower(own, row_axis)
            schedule = plan(program, device, dtype)
            results = [first_result[n] + k for n in members for k in range(len(terms[n].reduction.results))]
            emitted = Emitted(program, schedule, emit(program, schedule))
            stages.append(Stage(emitted, own, tuple(results), len(operation.arguments)))
    return Plan(operation, tuple(stages), tuple(first_result[n] for n in sorted(constant_zero)))


def simplified(term: Term) -> Term:
    """The term with its formulas rewritten."""
    weights = None if term.weights is None else rewrite(term.weights)
    return replace(term, formula=rewrite(term.formula), weights=weights)


def _is_zero(term: Term) -> bool:
    if term.reduction not in (SUM, COMPENSATED_SUM):
        return False
    formula = term.formula
    while formula.op is not None and formula.op.name == "SumT":
        formula = formula.operands[0]
    return isinstance(formula, Const) and formula.value == 0


def _row_axes(terms: Sequence[Term]) -> dict[int, Axis]:
    """The kept axis of each term's kernel; parameters ride along with a kernel that is there anyway."""
    kept = {term.keep for term in terms}
    shared: Axis = "j" if "j" in kept and "i" not in kept else "i"
    return {n: shared if term.keep == "p" else term.keep for n, term in enumerate(terms)}
