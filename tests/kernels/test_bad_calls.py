"""Every operator called wrongly in every way that its declaration knows: refused at a place, and fast."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from farfield_kernels.errors import FormulaError
from farfield_kernels.expr import OPERATORS, Expr, Operator
from farfield_kernels.operators import named_operators
from farfield_kernels.operators.differential import Differential
from farfield_kernels.parse import parse_formula, parse_variables

NAMES = sorted(named_operators())
HUGE = ("1e300", "-1e300", "2**60", "-1e17")
ODD = (*HUGE, "1e9", "-1e9", "65537", "-1", "0", "7")
LONGEST_S = 0.05


def right_call(operator: Operator) -> tuple[list[str], list[str]]:
    """Declarations, and the arguments of a call that is right: those of the operator's longest case."""
    if not operator.cases:
        return ["x = Vi(1)"], []
    case = max(operator.cases, key=lambda case: len(case.dims) + len(case.integers))
    declarations = [f"x{place} = Vi({dim})" for place, dim in enumerate(case.dims)]
    arguments = [f"x{place}" for place in range(len(case.dims))]
    if isinstance(operator, Differential):
        declarations[0] = f"x0 = Pm({case.dims[0] * case.dims[1]})"
        arguments[0] = "MatVecMult(x0, x1)"
    arguments += [str(list(n) if isinstance(n, tuple) else n) for n in case.integers]
    return [*declarations, "other = Vi(11)"], arguments


def read_call(name: str, declarations: list[str], arguments: list[str]) -> Expr | FormulaError:
    """The graph or the error, within the time allowed; an error has a caret within the text."""
    text = f"1 * {name}({', '.join(arguments)})"
    variables = parse_variables(tuple(declarations))
    times = []
    for _ in range(3):
        started = time.thread_time()
        outcome: Expr | FormulaError
        try:
            outcome = parse_formula(text, variables)
        except FormulaError as error:
            outcome = error
        times.append(time.thread_time() - started)
        if times[-1] < LONGEST_S:
            break
    assert min(times) < LONGEST_S, f"{text}: {min(times) * 1e3:.0f} ms"
    if isinstance(outcome, FormulaError):
        assert outcome.position is not None, text
        assert 0 <= outcome.position < len(text), text
        assert outcome.field == "formula"
        assert len(str(outcome)) < 1000
    return outcome


def refused(name: str, declarations: list[str], arguments: list[str]) -> None:
    """The call is an error."""
    outcome = read_call(name, declarations, arguments)
    assert isinstance(outcome, FormulaError), f"{name}({', '.join(arguments)}) was read"


def replaced(arguments: list[str], places: range, values: tuple[str, ...]) -> Iterator[list[str]]:
    """The arguments with one of them replaced, in every way."""
    for place in places:
        for value in values:
            yield [*arguments[:place], value, *arguments[place + 1 :]]


@pytest.mark.parametrize("name", NAMES)
def test_the_neighbour_is_right(name: str) -> None:
    """The call that the others are made from by one change is read."""
    assert isinstance(read_call(name, *right_call(OPERATORS[name])), Expr)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_numbers_of_arguments_are_refused(name: str) -> None:
    """One argument fewer than the least or more than the most, and none at all, are errors."""
    operator = OPERATORS[name]
    declarations, arguments = right_call(operator)
    refused(name, declarations, [*arguments, "1"])
    refused(name, declarations, [*arguments, *["1"] * 50])
    least = operator.arity + len(operator.integers) - operator.optional
    if least:
        refused(name, declarations, arguments[: least - 1])
        refused(name, declarations, [])


@pytest.mark.parametrize("name", NAMES)
def test_wrong_integers_are_refused(name: str) -> None:
    """Fractions, formulas, infinity, lists for integers, integers for lists and huge numbers are errors."""
    operator = OPERATORS[name]
    declarations, arguments = right_call(operator)
    for place, label in enumerate(operator.integers, operator.arity):
        is_list = label.startswith("[")
        single = ("0.5", "other", "Sum(other)", "1/0", "I()", *HUGE)
        wrong = (*(f"[{value}]" for value in single), "1", "[[1]]") if is_list else (*single, "[1]", "()")
        for changed in replaced(arguments, range(place, place + 1), wrong):
            refused(name, declarations, changed)
        odd = (*(f"[{value}]" for value in ODD), f"[{'1,' * 12}]") if is_list else ODD
        for changed in replaced(arguments, range(place, place + 1), odd):
            read_call(name, declarations, changed)


@pytest.mark.parametrize("name", NAMES)
def test_lists_for_formulas_are_refused(name: str) -> None:
    """A list in the place of an operand is an error, also where several variables may stand."""
    operator = OPERATORS[name]
    declarations, arguments = right_call(operator)
    for changed in replaced(arguments, range(operator.arity), ("[1, 1]", "(other, other)", "[]")):
        refused(name, declarations, changed)


@pytest.mark.parametrize("name", NAMES)
def test_operands_of_a_dim_that_no_other_has(name: str) -> None:
    """An operand of another dim, 11, 22 or 1, gives a formula or is refused at a place, within the time."""
    operator = OPERATORS[name]
    declarations, arguments = right_call(operator)
    for changed in replaced(arguments, range(operator.arity), ("other", "Concat(other, other)", "1")):
        read_call(name, declarations, changed)
