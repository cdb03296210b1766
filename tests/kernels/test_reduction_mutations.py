"""Declarations of reductions broken on purpose: each generated check is seen to fail, and to pass unbroken."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from farfield_kernels.expr import apply
from farfield_kernels.reductions import REDUCTIONS, Field, Pair, Reduction, Result
from kernels.operator_checks import forget_compiled_formulas
from kernels.reduction_checks import (
    WEIGHTS,
    check_compensation,
    check_gradient,
    check_reduction,
    check_special_terms,
)

Change = Callable[[Reduction], dict[str, Any]]
Check = Callable[..., None]

SMALL = [(3, 0), (3, 2), (3, 7), (33, 600), (2, 2500)]  # nothing, little, one tile, several tiles, split


def values(name: str, **options: Any) -> None:
    """The reduction check at the sizes that matter."""
    check_reduction(name, "float64", 1, SMALL, **options)


def saved(name: str) -> None:
    """That check of what is saved for gradients."""
    values(name, saving=True)


def weighted(name: str) -> None:
    """That check with weights, where they are optional."""
    values(name, formula2=WEIGHTS)


def gradient(name: str) -> None:
    """The gradient check, over j."""
    check_gradient(name, 1)


def special(name: str) -> None:
    """The check of infinities and NaN."""
    check_special_terms(name, "float64")


def ignoring(name: str) -> None:
    """That check where NaN is passed over."""
    check_special_terms(name, "float64", nan_policy="ignore")


def fields(**changed: Any) -> Change:
    """Other fields."""
    return lambda reduction: changed


def text(field: str, old: str, new: str) -> Change:
    """Other C text in `step`, `candidate`, `step_each` or `merge`."""

    def change(reduction: Reduction) -> dict[str, Any]:
        declared = getattr(reduction, field)
        assert old in declared
        return {field: declared.replace(old, new)}

    return change


def takes_nan(reduction: Reduction) -> dict[str, Any]:
    """A selection in which NaN takes an empty place, of the lane state and of the wide one."""
    changes = [text(field, "& (t == t)", "")(reduction) for field in ("step", "merge")]
    return changes[0] | changes[1]


def finish(old: str, new: str, place: int = 0) -> Change:
    """Other C text of a result."""

    def change(reduction: Reduction) -> dict[str, Any]:
        results = list(reduction.results)
        assert old in results[place].finish
        results[place] = replace(results[place], finish=results[place].finish.replace(old, new))
        return {"results": tuple(results)}

    return change


def identity(name: str, value: str) -> Change:
    """Another value of a field before the first term."""

    def change(reduction: Reduction) -> dict[str, Any]:
        assert any(field.name == name for field in reduction.state)
        state = tuple(replace(f, identity=value) if f.name == name else f for f in reduction.state)
        return {"state": state}

    return change


def slope(rule: Callable[[Pair, Any, Any], tuple[Any, Any]]) -> Change:
    """The declared gradient of the formula and of the weights, changed."""

    def change(reduction: Reduction) -> dict[str, Any]:
        declared = reduction.gradient
        assert declared is not None
        return {"gradient": lambda pair: rule(pair, *declared(pair))}

    return change


LOST, DOUBLED = slope(lambda pair, f, w: (None, w)), slope(lambda pair, f, w: (2 * f, w))
NO_WEIGHTS = slope(lambda pair, f, w: (f, None))

# Reduction, the variant of it that is broken, what is broken, how, the check that must fail.
BROKEN: tuple[tuple[str, str, str, Change, Check], ...] = (
    ("Sum", "", "identity", identity("s", "K(1)"), values),
    ("Sum", "", "step subtracts", text("step", "+ $t", "- $t"), values),
    ("Sum", "", "merge keeps the later part", fields(merge="$s = $s2;"), values),
    ("Sum", "", "merge keeps the earlier part", fields(merge="$s = $s;"), values),
    ("Sum", "", "finish", finish("$s", "-$s"), values),
    ("Sum", "", "factor of the gradient", DOUBLED, gradient),
    ("Sum", "compensated", "error dropped", text("step", "$t - $e", "$t"), check_compensation),
    ("Sum", "compensated", "sign of the error", text("step", "$t - $e", "$t + $e"), check_compensation),
    ("Sum", "compensated", "merge drops the error", text("merge", "($s2 - $e2)", "$s2"), check_compensation),
    ("Sum", "compensated", "merge drops a part", text("merge", "($s2 - $e2)", "-$e2"), check_compensation),
    ("Mean", "", "identity", identity("s", "K(1)"), values),
    ("Mean", "", "not divided", finish(" / terms", ""), values),
    ("Mean", "", "merge", fields(merge="$s -= $s2;"), values),
    ("Mean", "saving", "number of terms", finish("terms", "terms + 1", 1), saved),
    ("Mean", "saving", "gradient not divided", fields(gradient=lambda pair: (pair.cotangents[0], None)), gradient),
    ("Var", "", "step with the old number", text("step", "($n - K(1))", "$n"), values),
    ("Var", "", "merge without the distance of the means", text("merge", "d * d *", "0 *"), values),
    ("Var", "", "merge keeps the mean", text("merge", "$a += d * ($n2 / n);", ""), values),
    ("Var", "", "divided by one less", finish("terms", "(terms - 1)"), values),
    ("Var", "", "identity of the number", identity("v", "K(1)"), values),
    ("Var", "saving", "mean", finish("$a", "$v", 1), saved),
    ("Var", "saving", "gradient without the mean",
     fields(gradient=lambda pair: (2.0 * pair.cotangents[0] * pair.term / pair.number(pair.saved[1]), None)),
     gradient),
    ("Std", "", "no root", finish("sqrt", ""), values),
    ("Std", "", "step", text("step", "d / $n", "d"), values),
    ("Std", "", "merge", text("merge", "$v +=", "$v ="), values),
    ("Std", "saving", "gradient doubled", DOUBLED, gradient),
    ("Prod", "", "identity", identity("p", "K(0)"), values),
    ("Prod", "saving", "count of zeros", identity("z", "KI(1)"), saved),
    ("Prod", "saving", "no derivative by a term that is 0",
     slope(lambda pair, f, w: (apply("Where", apply("Equal", pair.term, 0.0), 0.0, f), w)), gradient),
    ("Prod", "saving", "derivative by every term that is 0",
     slope(lambda pair, f, w: (
         apply("Where", apply("Equal", pair.term, 0.0), pair.cotangents[0] * pair.saved[0], f), w)), gradient),
    ("Count", "", "counts zeros", text("step", "!=", "=="), values),
    ("Count", "", "merge", fields(merge="$n = $n2;"), values),
    ("Count", "", "identity", identity("n", "KI(1)"), values),
    ("Count", "", "finish", finish("$n", "$n + 1"), values),
    ("Any", "", "step", text("step", "!=", "=="), values),
    ("Any", "", "merge", text("merge", "> 0", "< 0"), values),
    ("Any", "", "identity", identity("m", "K(1)"), values),
    ("Any", "", "NaN is false", text("step", "$t != K(0)", "($t > K(0)) | ($t < K(0))"), special),
    ("Any", "", "gradient", fields(gradient=lambda pair: (pair.cotangents[0], None)), gradient),
    ("All", "", "step", text("step", "==", "!="), values),
    ("All", "", "merge", text("merge", "== 0", "> 2"), values),
    ("All", "", "identity", identity("m", "K(0)"), values),
    ("All", "", "gradient", fields(gradient=lambda pair: (pair.cotangents[0], None)), gradient),
    ("Max", "", "step selects the smaller", text("step", ">", "<"), values),
    ("Max", "", "identity", identity("m", "K(100)"), values),
    ("Max", "", "NaN is passed over", text("step", " | ($t != $t)", ""), special),
    ("Max", "", "merge passes over NaN", text("merge", " || $m2 != $m2", ""), special),
    ("Max", "saving", "gradient goes to every column",
     fields(gradient=lambda pair: (pair.cotangents[0], None)), gradient),
    ("Max", "saving", "place in merge", text("merge", "$k = $k2;", ""), saved),
    ("Max", "ignoring", "NaN wins", text("step", "($t > $m)", "($t > $m) | ($t != $t)"), ignoring),
    ("Min", "", "merge selects the larger", text("merge", "<", ">"), values),
    ("Min", "", "identity", identity("m", "K(-100)"), values),
    ("Min", "ignoring", "merge selects the larger", text("merge", "<", ">"), ignoring),
    ("ArgMax", "", "the last of equal terms", text("step", "$t <= $m", "$t < $m"), values),
    ("ArgMax", "", "the last NaN", text("step", " & ($m == $m)", ""), special),
    ("ArgMax", "", "none of infinite ones", finish("$k < 0 && terms > 0 ? 0 : ", ""), special),
    ("ArgMin", "", "later parts on ties", text("merge", "$m2 < $m", "$m2 <= $m && $k2 >= 0"), values),
    ("ArgMin", "", "index of nothing", finish("$k < 0", "$k + 1 < 0"), special),
    ("ArgMin", "ignoring", "NaN wins", text("step", "($t < $m)", "($t < $m) | ($t != $t)"), ignoring),
    ("Max_ArgMax", "", "gradient goes to every column",
     fields(gradient=lambda pair: (pair.cotangents[0], None)), gradient),
    ("Max_ArgMax", "", "place left out in merge", text("merge", "$k = $k2;", ""), values),
    ("Min_ArgMin", "", "place one further", text("step", "KI($c)", "KI($c + 1)"), values),
    ("Min_ArgMin", "", "sign of the gradient", slope(lambda pair, f, w: (-f, w)), gradient),
    ("KMin", "", "the largest", text("step", "!(y <= t)", "!(y >= t)"), values),
    ("KMin", "", "the worse terms are looked at", text("candidate", "($v, $t)", "($t, $v)"), values),
    ("ArgKMin", "", "infinite terms are not looked at", text("candidate", "any($k < 0) | ", ""), special),
    ("KMin", "", "merge takes one", text("merge", "u < $K", "u < 1"), values),
    ("KMin", "", "in reverse", finish("$v[q]", "$v[$K - 1 - q]"), values),
    ("KMin", "", "identity", identity("v", "K(0)"), values),
    ("KMin", "saving", "gradient doubled", DOUBLED, gradient),
    ("KMin", "ignoring", "NaN is taken", takes_nan, ignoring),
    ("ArgKMin", "", "the last of equal terms", text("step", "!(y <= t)", "!(y < t)"), values),
    ("ArgKMin", "", "places one further", finish("$k[q]", "$k[q] + 1"), values),
    ("KMin_ArgKMin", "", "place not moved along", text("step", "place = w ? before : place;", ""), values),
    ("KMin_ArgKMin", "", "sign of the gradient", slope(lambda pair, f, w: (apply("Abs", f), w)), gradient),
    ("KMax", "", "the smallest", text("step", "t > y", "t < y"), values),
    ("KMax", "", "merge drops a term", text("merge", "x = y;", ""), values),
    ("KMax", "", "NaN is passed over", text("step", "| ((t != t) & ($v[$K - 1] == $v[$K - 1]))", ""), special),
    ("KMax", "saving", "gradient", LOST, gradient),
    ("ArgKMax", "", "identity of places", identity("k", "KI(0)"), special),
    ("ArgKMax", "ignoring", "NaN is taken", takes_nan, ignoring),
    ("KMax_ArgKMax", "", "merge loses places", text("merge", "$k[q] = place;", ""), values),
    ("LogSumExp", "", "identity", fields(state=(Field("m", "K(0)"), Field("s", "K(1)"))), values),
    ("LogSumExp", "", "merge does not shift", fields(merge="$s = $s + $s2; $m = $m > $m2 ? $m : $m2;"), values),
    ("LogSumExp", "", "finish forgets the shift", finish("finite_or_zero($m) + ", ""), values),
    ("LogSumExp", "", "gradient not normalised",
     fields(gradient=lambda pair: (pair.cotangents[0] * apply("Exp", pair.term), None)), gradient),
    ("LogSumExp", "weighted", "weights squared", text("step_each", "* $w", "* $w * $w"), weighted),
    ("LogSumExpWeight", "", "weights left out", text("step_each", " * $w", ""), values),
    ("LogSumExpWeight", "", "merge scales one part", text("merge", "$s2[q] * b", "$s2[q]"), values),
    ("LogSumExpWeight", "", "no logarithm", finish("log", ""), values),
    ("LogSumExpWeight", "", "gradient of the weights", NO_WEIGHTS, gradient),
    ("LogSumExpWeight", "", "gradient of the formula", LOST, gradient),
    ("SumSoftMaxWeight", "", "not divided", finish(" / $s[0]", ""), values),
    ("SumSoftMaxWeight", "", "divided by the weights", finish("/ $s[0]", "/ $s[1]"), values),
    ("SumSoftMaxWeight", "", "merge adds up", text("merge", "$s[q] * a + $s2[q] * b", "$s[q] + $s2[q]"), values),
    ("SumSoftMaxWeight", "saving", "another sum's logarithm", finish("$s[0]", "$s[1]", 1), saved),
    ("SumSoftMaxWeight", "saving", "gradient of the weights", NO_WEIGHTS, gradient),
    ("SumSoftMaxWeight", "saving", "gradient without the mean",
     slope(lambda pair, f, w: (apply("Scalprod", w, pair.second), w)), gradient),
    ("Max_SumShiftExp", "", "identity", identity("s", "K(1)"), values),
    ("Max_SumShiftExp", "", "no maximum",
     fields(results=(Result("$s[q]", each="W", head="0"),)), values),
    ("Max_SumShiftExp", "saving", "place of the maximum", text("step", "KI($c)", "KI($c + 1)"), saved),
    ("Max_SumShiftExp", "saving", "maximum held", slope(lambda pair, f, w: (f - pair.selected(pair.saved[1])
                                                                            * pair.cotangents[0], w)), gradient),
    ("Max_SumShiftExp", "weighted", "weights left out", text("step_each", " * $w", ""), weighted),
    ("Max_SumShiftExpWeight", "", "merge scales one part", text("merge", "$s[q] * a", "$s[q]"), values),
    ("Max_SumShiftExpWeight", "saving", "step does not shift", text("step_each", "$s * a", "$s"), saved),
    ("Max_SumShiftExpWeight", "saving", "merge keeps the place", text("merge", "$k = $k2;", "$k = $k;"), saved),
    ("Max_SumShiftExpWeight", "saving", "gradient of the weights", NO_WEIGHTS, gradient),
)  # fmt: skip


def broken(name: str, variant: str, change: Change) -> Reduction:
    """The declaration with the change, in itself or in one of its variants."""
    reduction = REDUCTIONS[name]
    if not variant:
        return replace(reduction, **change(reduction))
    inner = getattr(reduction, variant)
    return replace(reduction, **{variant: replace(inner, **change(inner))})


@functools.cache
def passes(check: Check, name: str) -> None:
    """The check of the declaration as it is, made once for all rows."""
    check(name)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    forget_compiled_formulas()
    yield
    forget_compiled_formulas()


IDS = [" ".join(filter(None, [name, variant])) + f": {what}" for name, variant, what, _, _ in BROKEN]


@pytest.mark.parametrize(("name", "variant", "what", "change", "check"), BROKEN, ids=IDS)
def test_a_broken_reduction_is_noticed(
    name: str, variant: str, what: str, change: Change, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check passes for the declaration and fails for the broken one."""
    passes(check, name)
    monkeypatch.setitem(REDUCTIONS, name, broken(name, variant, change))
    forget_compiled_formulas()
    with pytest.raises(AssertionError):
        check(name)


def test_every_reduction_is_broken() -> None:
    """Each declared reduction has rows, and each variant that has a text or a gradient of its own."""
    assert {name for name, *_ in BROKEN} == set(REDUCTIONS)
    variants = {variant for _, variant, *_ in BROKEN}
    assert variants == {"", "saving", "weighted", "ignoring", "compensated"}
