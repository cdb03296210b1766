"""Random formulas, the same ones each time: 50 of them here, 2,000 new ones in `make fuzz`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from farfield_kernels import grammar
from farfield_kernels.expr import OPERATORS, Expr, apply
from farfield_kernels.reductions import REDUCTIONS, Pair
from kernels.formula_strategies import Group, draw_group
from kernels.formula_trees import Argument, call, leaf
from kernels.fuzz import SIZE
from kernels.fuzz_checks import Report, check_group, failure_of
from kernels.operator_checks import forget_compiled_formulas

DRAWN = ("Sum", "LogSumExp", "SumSoftMaxWeight", "Max_ArgMax", "Std")  # reductions; `make fuzz` draws all


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    forget_compiled_formulas()
    yield
    forget_compiled_formulas()


@functools.cache
def drawn(reduction: str) -> Group:
    """The group of a reduction, the same in every run."""
    return draw_group(SIZE, DRAWN.index(reduction), reduction)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("reduction", DRAWN)
def test_random_formulas_pass_all_checks(reduction: str) -> None:
    """Text, graph, values, gradients and tangents agree, and few of them are allowed to differ much."""
    report = Report()
    problem = failure_of(drawn(reduction), report)
    assert problem is None, problem
    assert report.loose <= 0.1 * report.compared
    assert report.jumps <= 0.5 * report.slopes


def test_a_seed_gives_the_same_formulas_again() -> None:
    """Words and numbers of a call follow from the seed alone; another seed gives others."""
    first, again, other = draw_group(3, 7), draw_group(3, 7), draw_group(3, 8)
    assert first.spec == again.spec != other.spec
    for a, b in zip(first.arguments, again.arguments, strict=True):
        assert np.array_equal(a.array, b.array)


def _vjp(name: str, rule: Callable[..., Any]) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setitem(OPERATORS, name, replace(OPERATORS[name], vjp=rule))


def _definition(name: str, definition: Callable[..., Any]) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setitem(OPERATORS, name, replace(OPERATORS[name], definition=definition))


def _code(name: str, text: str) -> Callable[[pytest.MonkeyPatch], None]:
    def lower(emit: Any, operands: list[list[int]], dim: int, params: Any) -> list[int]:
        return [emit(text, *(x[k % len(x)] for x in operands)) for k in range(dim)]

    return lambda patch: patch.setitem(OPERATORS, name, replace(OPERATORS[name], lower=lower))


def _reduction(name: str, **broken: Any) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setitem(REDUCTIONS, name, replace(REDUCTIONS[name], **broken))


def _doubled(pair: Pair) -> tuple[Expr, None]:
    return 2 * pair.cotangents[0], None


def _hand_made() -> Group:
    """x * y - Sin(x) * y and SqDist(x, y), summed over j."""
    rng = np.random.default_rng(0)
    x = Argument("x", 0, 2, "i", rng.integers(-8, 9, (5, 2)) / 4)
    y = Argument("y", 1, 2, "j", rng.integers(-8, 9, (6, 2)) / 4)
    first = call("Mult", [leaf(x), leaf(y)])
    second = call("Mult", [call("Sin", [leaf(x)]), leaf(y)])
    formulas = (call("Subtract", [first, second]), call("SqDist", [leaf(x), leaf(y)]))
    return Group((x, y), formulas, ("x = Vi(2)", "y = Vj(2)"), "Sum", False, 1, {}, None)


# What is broken, how, and what the checks say about it.
BROKEN: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "the sign of a derivative": (_vjp("Mult", lambda g, y, a, b: (g * b, -(g * a))), "^derivative of result"),
    "the C text of an operator": (_code("Sin", "sin($a) + K(0.001)"), "^result 0, float32:"),
    "a definition": (_definition("SqDist", lambda a, b: apply("SqNorm2", a)), "^the graph of a formula"),
    "a reduction": (_reduction("Sum", merge="$s = $s2;"), "^result 0, float32"),
    "a gradient of a reduction": (
        _reduction("Sum", gradient=lambda pair: (2 * pair.cotangents[0], None)),
        "^deriv",
    ),
    "a precedence": (lambda patch: patch.setitem(grammar._BINARY, "-", 4), "was read as"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_noticed(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Formulas that pass all checks fail the right one once a declaration or the grammar is wrong."""
    breaks, message = BROKEN[what]
    check_group(_hand_made(), Report())
    breaks(monkeypatch)
    forget_compiled_formulas()
    with pytest.raises(AssertionError, match=message):
        check_group(_hand_made(), Report())
