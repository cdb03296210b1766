"""Calls whose sums separate: when the passes run, what they give, and what goes through the kernel over pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from farfield_kernels import engine, execute
from farfield_kernels.errors import ArgumentError
from farfield_kernels.explain import explain
from farfield_kernels.expr import Array
from farfield_kernels.operation import Spec, read
from farfield_kernels.reference import reference
from farfield_kernels.separate import LEAST_PAIRS
from kernels.reduction_checks import assert_results

pytestmark = pytest.mark.usefixtures("path")  # compiled, and on NumPy

SEED = Spec("Square(p-a)*Exp(x+y)", ("x = Vi(3)", "y = Vj(3)", "a = Vj(1)", "p = Pm(1)"), axis=1, separation="on")
TOLERANCE = {"float32": 1e-6, "float64": 1e-13}


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each stage that was tried by passes, whether their results were accepted."""
    found: list[bool] = []
    by_passes = execute._by_passes

    def noted(*arguments: object) -> bool:
        found.append(by_passes(*arguments))  # type: ignore[arg-type]
        return found[-1]

    monkeypatch.setattr(execute, "_by_passes", noted)
    return found


def seed_arrays(M: int, N: int, dtype: str = "float32") -> list[Array]:
    """Positive numbers, so that nothing cancels."""
    rng = np.random.default_rng(0)
    return [rng.uniform(0.2, 1, shape).astype(dtype) for shape in ((M, 3), (N, 3), (N, 1), (1,))]


def computed(spec: Spec, arrays: Sequence[Array]) -> list[Array]:
    """The results on the CPU."""
    return engine.run(spec, arrays, device="cpu").arrays


def check(spec: Spec, arrays: Sequence[Array], what: str) -> None:
    """As the reference."""
    tolerance = TOLERANCE[arrays[0].dtype.name]
    assert_results(computed(spec, arrays), reference(read(spec), arrays), tolerance, what)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_forward_and_gradients_by_passes(dtype: str, axis: int, outcomes: list[bool]) -> None:
    """At sizes around blocks and vectors, over either axis, all stages are separated and agree."""
    spec = replace(SEED, axis=axis)
    cotangent = np.random.default_rng(1).uniform(0.2, 1, (700, 3)).astype(dtype)
    for M, N in ((1, 1), (1, 300), (300, 1), (33, 257), (257, 600)):
        arrays = seed_arrays(M, N, dtype)
        arrays[2] *= -1
        check(spec, arrays, f"seed, {M}, {N}, axis {axis}")
        e = cotangent[: M if axis == 1 else N]
        check(spec.vjp((0, 1, 2, 3)), [*arrays, e], f"gradients, {M}, {N}, axis {axis}")
    assert outcomes == [True] * 15


def test_without_rows_or_columns_nothing_is_tried(outcomes: list[bool]) -> None:
    """The shapes are right and sums of nothing are 0."""
    for M, N in ((0, 5), (5, 0)):
        assert computed(SEED, seed_arrays(M, N))[0].tolist() == [[0.0] * 3] * M
    assert outcomes == []


@pytest.mark.parametrize("place", range(4))
def test_refused_results_are_computed_over_pairs(place: int, outcomes: list[bool]) -> None:
    """NaN anywhere, or an overflow of one exponent alone, gives what the reference gives."""
    arrays = seed_arrays(17, 300)
    arrays[place].reshape(-1)[-1] = np.nan
    check(SEED, arrays, f"NaN in argument {place}")
    assert outcomes == [False]


def test_cancelling_sums_have_the_accuracy_of_the_plain_kernel(outcomes: list[bool]) -> None:
    """Squared distances far from the origin: accepted or not, the error is that of pairs."""
    variables = ("x = Vi(3)", "y = Vj(3)", "b = Vj(1)")
    rng = np.random.default_rng(2)
    for offset, accepted in ((0.0, True), (1e5, False)):
        x, y = (rng.standard_normal((rows, 3)).astype(np.float32) + np.float32(offset) for rows in (33, 300))
        arrays = [x, y, rng.uniform(0.5, 1, (300, 1)).astype(np.float32)]
        check(Spec("SqDist(x,y)*b", variables, separation="on"), arrays, f"offset {offset}")
        assert outcomes.pop() == accepted


@pytest.mark.parametrize("shift", [1e4, -1e4])
def test_exponents_of_both_signs(shift: float, outcomes: list[bool]) -> None:
    """|x| and |y| of 1e4 and opposite signs, and weights that are zero where the exponent is largest."""
    arrays = [np.round(array * 64) / 64 for array in seed_arrays(17, 300, "float64")]
    arrays[0] += shift
    arrays[1] -= shift
    arrays[1][5] += 30
    arrays[2][5] = arrays[3]
    arrays = [array.astype(np.float32) for array in arrays]
    check(SEED, arrays, f"shift {shift}")
    assert outcomes == [True]


def test_many_pairs_are_separated_unasked(outcomes: list[bool]) -> None:
    """From some 67 million pairs on; not below, not where it is off, not with batch axes or ranges."""
    rows = int(LEAST_PAIRS**0.5)
    arrays = seed_arrays(rows, rows)
    plain = replace(SEED, separation="auto")
    (got,) = computed(plain, arrays)
    assert outcomes == [True]
    some = np.random.default_rng(3).integers(0, rows, 7)
    expected = reference(read(SEED), [arrays[0][some], *arrays[1:]])
    assert_results([got[some]], expected, TOLERANCE["float32"], "random rows")
    computed(plain, [arrays[0][:-1], *arrays[1:]])
    computed(replace(SEED, separation="off"), arrays)
    few = [array[None] for array in seed_arrays(5, 9)]
    computed(SEED, few)
    whole = np.array([[0, 5]]), np.array([1]), np.array([[0, 9]])
    back = np.array([[0, 9]]), np.array([1]), np.array([[0, 5]])
    engine.run(SEED, [array[0] for array in few], device="cpu", ranges=(*whole, *back))
    assert outcomes == [True]


def test_other_reductions_and_formulas_are_never_tried(outcomes: list[bool]) -> None:
    """A maximum, a compensated sum, a kernel of the distance."""
    arrays = seed_arrays(5, 9)
    computed(replace(SEED, reduction="Max"), arrays)
    computed(replace(SEED, sum_scheme="kahan_scheme"), arrays)
    computed(replace(SEED, formula="Exp(-SqDist(x,y))*a*p"), arrays)
    assert outcomes == []


def test_explain_says_whether_and_when() -> None:
    """The rank, the number of passes and the sizes from which they are taken."""
    plain = replace(SEED, separation="auto")
    assert "rank 3: passes over columns 4, over rows 1" in explain(plain, with_source=False)
    assert str(LEAST_PAIRS) in explain(plain, with_source=False)
    assert "always" in explain(SEED, with_source=False)
    assert "separation is off" in explain(replace(SEED, separation="off"), with_source=False)
    assert "separation no" in explain(replace(SEED, formula="Exp(-SqDist(x,y))"), with_source=False)
    assert "10 columns: by pairs" in explain(plain, sizes=(10, 10), with_source=False)
    assert "10000 columns: by passes" in explain(plain, sizes=(10_000, 10_000), with_source=False)
    assert "by pairs, several columns" in explain(plain, sizes=(3, 10_000), with_source=False)


def test_another_word_is_refused() -> None:
    """The neighbours of the three words."""
    for word in ("always", True, None):
        with pytest.raises(ArgumentError, match="it is one of auto, on, off"):
            replace(SEED, separation=word)  # type: ignore[arg-type]
