"""Schedules: narrow programs live in registers, wide ones in memory, few rows are split over columns."""

from __future__ import annotations

import numpy as np
import pytest

from farfield_kernels.engine import run
from farfield_kernels.errors import LimitError
from farfield_kernels.operation import Spec, read
from farfield_kernels.reference import reference
from farfield_kernels.schedule import Schedule, split
from farfield_kernels.stages import plan_call

WIDE = Spec("x*y", ("x = Vi(70)", "y = Vj(70)"))


def schedule(spec: Spec, device: str = "cpu", dtype: str = "float32") -> Schedule:
    """The schedule of a call's first kernel."""
    return plan_call(spec, dtype, device).stages[0].emitted.schedule  # type: ignore[arg-type]


def test_narrow_programs_hold_their_rows_in_registers() -> None:
    """The seed's rows and sums fit; seventy components, each with a maximum of its own, do not."""
    seed = Spec("Square(p-a)*Exp(x+y)", ("x = Vi(3)", "y = Vj(3)", "a = Vj(1)", "p = Pm(1)"))
    assert schedule(seed).in_registers
    assert schedule(seed).rows == 2
    maxima = Spec(WIDE.formula, WIDE.variables, "LogSumExp")
    assert not schedule(maxima).in_registers
    assert schedule(maxima).rows == 1


@pytest.mark.parametrize("reduction", ["Sum", "LogSumExp", "Max_ArgMax", "Min"])
@pytest.mark.parametrize("axis", [0, 1])
def test_wide_programs_are_right(reduction: str, axis: int) -> None:
    """A lane state in memory gives what the oracle gives, tails and column splits included."""
    rng = np.random.default_rng(0)
    spec = Spec(WIDE.formula, WIDE.variables, reduction, axis)
    for M, N in ((33, 300), (1, 5000), (5000, 2)):
        arrays = [rng.standard_normal((M, 70)), rng.standard_normal((N, 70))]
        for found, truth in zip(run(spec, arrays).arrays, reference(read(spec), arrays), strict=True):
            np.testing.assert_allclose(found, truth, rtol=1e-11, atol=1e-11)


def test_wide_values_that_do_not_vary_are_right() -> None:
    """Components of rows, columns or parameters alone pass through a wide program unchanged."""
    rng = np.random.default_rng(1)
    spec = Spec("Concat(Concat(x, y), Concat(p, x*y))", ("x = Vi(40)", "y = Vj(40)", "p = Pm(3)"))
    arrays = [rng.standard_normal(shape) for shape in ((9, 40), (11, 40), (3,))]
    (found,) = run(spec, arrays).arrays
    np.testing.assert_allclose(found, reference(read(spec), arrays)[0], rtol=1e-12, atol=1e-12)


def test_tiles_that_shared_memory_cannot_hold_are_refused() -> None:
    """A CUDA tile shrinks with the values kept per column, down to one column; beyond that is an error."""
    assert schedule(Spec("x|y", ("x = Vi(300)", "y = Vj(300)")), "cuda").tile < 128
    with pytest.raises(LimitError) as caught:
        schedule(Spec("Sum(x*Concat(y,y))", ("x = Vi(1)", "y = Vj(7000)")), "cuda", "float64")
    assert caught.value.limit


def test_few_rows_are_split_over_columns() -> None:
    """Ten rows and a million columns give every core several parts; many rows or few columns are not split."""
    plan = schedule(WIDE)
    assert split(plan, 10, 1_000_000, 1, workers=4) == 16
    assert split(plan, 10, 1_000_000, 16, workers=4) == 1
    assert split(plan, 100_000, 1_000_000, 1, workers=4) == 1
    assert split(plan, 10, 100, 1, workers=4) == 1
    assert split(plan, 0, 100, 1, workers=4) == 1
