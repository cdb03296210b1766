"""However threads share rows and columns, results are right, and the same in any order of the threads."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cuda.many_threads import Choice, ManyThreads
from cuda.simt.emulator import Order
from cuda.test_emitted_text_runs import SEED, positive
from farfield_kernels import engine
from farfield_kernels.arguments import check_arguments, result_shapes
from farfield_kernels.execute import Timing, Work, execute
from farfield_kernels.expr import Array
from farfield_kernels.lower import Program
from farfield_kernels.operation import Spec, read
from farfield_kernels.ranges import check_ranges
from farfield_kernels.reference import reference
from farfield_kernels.schedule import Schedule
from farfield_kernels.schedule_cuda import TEAM_TILE, TEAMS, TILE, with_polynomials, with_team
from farfield_kernels.stages import plan_call
from kernels.range_cases import FEW, FEW_BLOCKS, six_arrays
from kernels.reduction_checks import VARIANT_IDS, VARIANTS, assert_results, draw, spec_of

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ is installed")

ORDERS: tuple[Order, ...] = ("forward", "backward")
TOLERANCE = {"float32": 2e-6, "float64": 1e-13}
# (M, N): rows that fill no block and more than one, columns around tiles, parts of a team and what they list.
SIZES = ((1, 1), (3, TILE - 1), (130, TILE + 1), (5, TEAM_TILE + 1), (2, 2 * TEAM_TILE + 37))


def shared_by(team: int, rows: int) -> Choice:
    """Rows of a thread, and threads that share them."""

    def choice(program: Program, schedule: Schedule) -> Schedule:
        return with_team(program, replace(schedule, rows=min(rows, schedule.rows)), team)

    return choice


def computed(
    spec: Spec, arrays: Sequence[Array], choice: Choice, splits: int, order: Order, ranges: Any = None
) -> list[Array]:
    """The results of a call by its CUDA kernels."""
    operation = read(spec)
    sizes = check_arguments(operation, [a.dtype.name for a in arrays], [a.shape for a in arrays])
    pairs = None if ranges is None else check_ranges(ranges, sizes.M, sizes.N)
    slots = zip(operation.results, result_shapes(operation, sizes), strict=True)
    results = [np.zeros(shape, slot.dtype(sizes.dtype)) for slot, shape in slots]
    inputs = [
        engine.bind(slot, array, sizes.compute, sizes.N)
        for slot, array in zip(operation.arguments, arrays, strict=True)
    ]
    work = Work(plan_call(spec, sizes.compute, "cuda"), sizes, pairs, spec.separation)
    list(execute(work, inputs, results, Timing(), ManyThreads(choice, splits, order), math.inf))
    return results


def check(
    spec: Spec, arrays: Sequence[Array], choice: Choice, tolerance: float, what: str, ranges: Any = None
) -> None:
    """Whole and split, in two orders of the threads with equal bits."""
    expected = reference(read(spec), arrays, ranges)
    for splits in (1, 3):
        first, second = (computed(spec, arrays, choice, splits, order, ranges) for order in ORDERS)
        assert_results(first, expected, tolerance, f"{what}, splits {splits}")
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a, b, f"{what}, splits {splits}, threads in another order")


@pytest.mark.parametrize("team", TEAMS)
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=VARIANT_IDS)
def test_reductions(name: str, options: dict[str, Any], team: int) -> None:
    """Every reduction, its ties and places too, whoever shares its rows."""
    place = VARIANT_IDS.index(name) if name in VARIANT_IDS else 0
    dtype, rows = ("float32", "float64")[place % 2], (1, 8)[place // 2 % 2]
    for M, N in SIZES:
        arrays = draw(M, N, dtype)
        what = f"{name}, {M} x {N}, team {team}"
        check(spec_of(name, 1, **options), arrays, shared_by(team, rows), TOLERANCE[dtype], what)


@pytest.mark.parametrize("team", TEAMS)
@pytest.mark.parametrize("name", ["Sum", "LogSumExp", "ArgMin", "KMin_ArgKMin"])
def test_equal_terms_in_many_parts(name: str, team: int) -> None:
    """The first of equal terms wins, also where other threads have the others."""
    spec = spec_of(name, 1, "y", ("x = Vi(1)", "y = Vj(1)"))
    y = np.tile(np.float32([2, 1, 3, 1, 2]), 500)[:, None]
    check(spec, [np.zeros((3, 1), "f"), y], shared_by(team, 1), 2e-6, f"{name}, team {team}")


@pytest.mark.parametrize("team", TEAMS)
@pytest.mark.parametrize("axis", [0, None])
def test_other_axes(axis: int | None, team: int) -> None:
    """Rows of j, and both axes."""
    for name in ("Sum", "Max_ArgMax", "SumSoftMaxWeight", "KMin"):
        spec = spec_of(name, axis)
        arrays = draw(*((300, 5) if axis == 0 else (5, 300)), "float64")
        check(spec, arrays, shared_by(team, 2), 1e-13, f"{name}, axis {axis}, team {team}")


@pytest.mark.parametrize("team", [1, 8])
def test_ranges(team: int) -> None:
    """Parts of the columns of each block of rows."""
    for name in ("Sum", "ArgMax", "LogSumExp"):
        ranges = six_arrays(FEW_BLOCKS, FEW[1])
        check(spec_of(name), draw(*FEW, "float64"), shared_by(team, 2), 1e-13, f"{name}, team {team}", ranges)


@pytest.mark.parametrize("polynomials", [0, 5, 12])
def test_seed(polynomials: int) -> None:
    """However many exps are polynomials, forward and all four gradients."""

    def choice(program: Program, schedule: Schedule) -> Schedule:
        return replace(with_polynomials(program, replace(schedule, rows=4)), polynomials=polynomials)

    arrays = positive(((130, 3), (300, 3), (300, 1), (1,), (130, 3)), "float32")
    arrays[2] *= -1  # p - a has one sign: nothing cancels in float32
    check(SEED, arrays[:4], choice, 2e-6, f"seed, {polynomials}")
    check(SEED.vjp((0, 1, 2, 3)), arrays, choice, 2e-6, f"seed gradients, {polynomials}")


EXPONENTS = (-math.inf, -1e30, -200, -104, -88, -87.3, -1, 0, 1e-30, 1, 88.7, 88.8, 1e30, math.inf, math.nan)


@pytest.mark.parametrize("polynomials", [0, 1])
@pytest.mark.parametrize("formula", ["Exp(x+y)", "Exp(x*Square(1+y))"])
def test_exps_keep_infinities_and_nan_and_flush_the_smallest(formula: str, polynomials: int) -> None:
    """By either unit, whether log2 e is folded or not; below 2^-126 a result is 0 instead of denormal."""
    x = np.array(EXPONENTS, "f")[:, None]
    spec = Spec(formula, ("x = Vi(1)", "y = Vj(1)"))
    choice = lambda program, schedule: replace(schedule, rows=1, polynomials=polynomials)  # noqa: E731
    (got,) = computed(spec, [x, np.zeros((1, 1), "f")], choice, 1, "forward")
    exact = np.array([[math.exp(min(value, 700))] for value in x[:, 0]])
    exact[exact < 2.0**-126] = 0
    exact[exact > np.finfo("f").max] = np.inf
    tolerance = 3e-7 + 1.3e-7 * np.minimum(abs(x), 104, dtype="d")  # that of the exponent in its last place
    assert (np.isnan(got) == np.isnan(exact)).all()
    assert (np.isinf(got) == np.isinf(exact)).all()
    is_number = np.isfinite(exact)
    assert (abs(got[is_number] - exact[is_number]) <= tolerance[is_number] * exact[is_number]).all()
