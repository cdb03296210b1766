"""Schedules: narrow programs live in registers, wide ones in memory, few rows are split over columns."""

from __future__ import annotations

import numpy as np
import pytest

from farfield_kernels.engine import run
from farfield_kernels.errors import LimitError
from farfield_kernels.operation import Spec, read
from farfield_kernels.reference import reference
from farfield_kernels.schedule import Schedule, block_rows, for_sizes, split
from farfield_kernels.schedule_cuda import LEAST_PAIRS, per_pair
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


SEED = Spec("Square(p-a)*Exp(x+y)", ("x = Vi(3)", "y = Vj(3)", "a = Vj(1)", "p = Pm(1)"))
GAUSSIAN = Spec("Exp(-g*SqDist(x,y))*b", ("x = Vi(3)", "y = Vj(3)", "b = Vj(1)", "g = Pm(1)"))
HOPPER = 132  # multiprocessors


def on_cuda(spec: Spec, rows: int, cols: int, dtype: str = "float32") -> tuple[Schedule, int, int]:
    """The schedule for some sizes, blocks of rows and parts of the columns."""
    stage = plan_call(spec, dtype, "cuda").stages[0]  # type: ignore[arg-type]
    chosen = for_sizes(stage.program, stage.emitted.schedule, rows, cols, 1, HOPPER)
    return chosen, -(-rows // block_rows(chosen)), split(chosen, rows, cols, 1, HOPPER)


@pytest.mark.parametrize(
    ("rows", "cols"), [(1, 10**6), (10, 10**6), (100, 10**6), (3000, 5000), (10_000, 10_000), (10**6, 10**6)]
)
def test_every_multiprocessor_has_two_blocks(rows: int, cols: int) -> None:
    """Or nearly: few rows or many, and hardly any of them wait for the last block."""
    for spec in (SEED, GAUSSIAN, Spec("SqDist(x,y)", ("x = Vi(10)", "y = Vj(10)"), "KMin", opt_arg=10)):
        _, blocks, parts = on_cuda(spec, rows, cols)
        units = blocks * parts
        assert units >= 1.75 * HOPPER
        assert -(-units // HOPPER) * HOPPER <= 1.13 * units


def test_few_rows_are_shared_by_threads() -> None:
    """No more threads than rows can use idle; where rows are many, each thread has its own."""
    for rows in (1, 10, 100):
        schedule, blocks, _ = on_cuda(GAUSSIAN, rows, 10**6)
        assert schedule.team > 1
        assert blocks * block_rows(schedule) <= max(8, 2 * rows)
    assert on_cuda(GAUSSIAN, 10_000, 10_000)[0].team == 1


def test_small_calls_compile_one_kernel() -> None:
    """Where the launch takes longer than the pairs, other schedules are not looked at."""
    assert on_cuda(GAUSSIAN, 1, LEAST_PAIRS - 1)[0] == on_cuda(GAUSSIAN, 10**4, 10**4)[0]
    assert on_cuda(GAUSSIAN, 1, LEAST_PAIRS)[0] != on_cuda(GAUSSIAN, 10**4, 10**4)[0]


def test_exps_are_shared_out_where_the_special_units_are_the_limit() -> None:
    """Of the seed's three exps per pair some are polynomials; none of a Gaussian kernel, and none in float64."""
    assert 0 < on_cuda(SEED, 3000, 5000)[0].polynomials < 3 * on_cuda(SEED, 3000, 5000)[0].rows
    assert on_cuda(GAUSSIAN, 3000, 5000)[0].polynomials == 0
    assert on_cuda(SEED, 3000, 5000, "float64")[0].polynomials == 0


def test_instructions_of_a_pair_are_those_of_the_machine_code() -> None:
    """Three differences, a product, two fused with sums, the scale, exp, and one fused with the sum."""
    assert per_pair(plan_call(GAUSSIAN, "float32", "cuda").stages[0].program) == 9
