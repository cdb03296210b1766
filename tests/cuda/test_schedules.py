"""However threads share rows and columns, results are right, and the same in any order of the threads."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest

from cuda.simt.device import Emulated, emulated
from cuda.test_emitted_text_runs import SEED, check, computed, positive
from farfield_kernels import execute
from farfield_kernels.expr import Array
from farfield_kernels.lower import Program
from farfield_kernels.operation import Spec
from farfield_kernels.schedule import Schedule
from farfield_kernels.schedule_cuda import TEAM_TILE, TEAMS, TILE, with_polynomials, with_team
from kernels.reduction_checks import TOLERANCE, VARIANT_IDS, VARIANTS, draw, spec_of

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ is installed")

Choice = Callable[[Program, Schedule], Schedule]
# (M, N): columns that are fewer than a tile, and more than two; other sizes are in test_emitted_text_runs.py.
SIZES = ((3, TILE - 1), (2, 2 * TEAM_TILE + 37))


@pytest.fixture(scope="module")
def device() -> Iterator[Emulated]:
    """What `cuda` is in these tests."""
    with emulated() as device:
        yield device


def shared_by(team: int, rows: int) -> Choice:
    """Rows of a thread, and threads that share them."""

    def choice(program: Program, schedule: Schedule) -> Schedule:
        return with_team(program, replace(schedule, rows=min(rows, schedule.rows)), team)

    return choice


@contextlib.contextmanager
def chosen(choice: Choice) -> Iterator[None]:
    """Whatever the sizes, kernels have the schedule that `choice` makes of their own."""
    with mock.patch.object(execute, "for_sizes", lambda program, schedule, *sizes: choice(program, schedule)):
        yield


def check_by(
    device: Emulated, choice: Choice, spec: Spec, arrays: Sequence[Array], tolerance: float, what: str
) -> None:
    """See `check`."""
    with chosen(choice):
        check(device, spec, arrays, tolerance, what)


@pytest.mark.parametrize("team", TEAMS[1:])
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=VARIANT_IDS)
def test_reductions(name: str, options: dict[str, Any], team: int, device: Emulated) -> None:
    """Every reduction, its ties and places too, whoever shares its rows."""
    place = VARIANT_IDS.index(name) if name in VARIANT_IDS else 0
    dtype, rows = ("float32", "float64")[place % 2], (1, 8)[place // 2 % 2]
    for M, N in SIZES:
        arrays = draw(M, N, dtype)
        what = f"{name}, {M} x {N}, team {team}"
        check_by(device, shared_by(team, rows), spec_of(name, 1, **options), arrays, TOLERANCE[dtype], what)


@pytest.mark.parametrize("team", TEAMS)
@pytest.mark.parametrize("name", ["Sum", "LogSumExp", "ArgMin", "KMin_ArgKMin"])
def test_equal_terms_in_many_parts(name: str, team: int, device: Emulated) -> None:
    """The first of equal terms wins, also where other threads have the others."""
    spec = spec_of(name, 1, "y", ("x = Vi(1)", "y = Vj(1)"))
    y = np.tile(np.float32([2, 1, 3, 1, 2]), 500)[:, None]
    check_by(device, shared_by(team, 1), spec, [np.zeros((3, 1), "f"), y], 2e-6, f"{name}, team {team}")


@pytest.mark.parametrize("team", TEAMS)
@pytest.mark.parametrize("axis", [0, None])
def test_other_axes(axis: int | None, team: int, device: Emulated) -> None:
    """Rows of j, and both axes."""
    for name in ("Sum", "Max_ArgMax", "SumSoftMaxWeight", "KMin"):
        spec = spec_of(name, axis)
        arrays = draw(*((300, 5) if axis == 0 else (5, 300)), "float64")
        check_by(device, shared_by(team, 2), spec, arrays, 1e-13, f"{name}, axis {axis}, team {team}")


@pytest.mark.parametrize("polynomials", [0, 5, 12])
def test_seed(polynomials: int, device: Emulated) -> None:
    """However many exps are polynomials, forward and all four gradients."""

    def choice(program: Program, schedule: Schedule) -> Schedule:
        return replace(with_polynomials(program, replace(schedule, rows=4)), polynomials=polynomials)

    arrays = positive(((130, 3), (300, 3), (300, 1), (1,), (130, 3)), "float32")
    arrays[2] *= -1  # p - a has one sign: nothing cancels in float32
    check_by(device, choice, SEED, arrays[:4], 2e-6, f"seed, {polynomials}")
    check_by(device, choice, SEED.vjp((0, 1, 2, 3)), arrays, 2e-6, f"seed gradients, {polynomials}")


EXPONENTS = (-math.inf, -1e30, -200, -104, -88, -87.3, -1, 0, 1e-30, 1, 88.7, 88.8, 1e30, math.inf, math.nan)


@pytest.mark.parametrize("polynomials", [0, 1])
@pytest.mark.parametrize("formula", ["Exp(x+y)", "Exp(x*Square(1+y))"])
def test_exps_keep_infinities_and_flush_the_smallest(formula: str, polynomials: int, device: Emulated) -> None:
    """By either unit, whether log2 e is folded or not; below 2^-126 a result is 0 instead of denormal."""
    x = np.array(EXPONENTS, "f")[:, None]
    spec = Spec(formula, ("x = Vi(1)", "y = Vj(1)"))
    choice = lambda program, schedule: replace(schedule, rows=1, polynomials=polynomials)  # noqa: E731
    with chosen(choice):
        (got,) = computed(device, spec, [x, np.zeros((1, 1), "f")])
    exact = np.array([[math.exp(min(value, 700))] for value in x[:, 0]])
    exact[exact < 2.0**-126] = 0
    exact[exact > np.finfo("f").max] = np.inf
    tolerance = 3e-7 + 1.3e-7 * np.minimum(abs(x), 104, dtype="d")  # that of the exponent in its last place
    assert (np.isnan(got) == np.isnan(exact)).all()
    assert (np.isinf(got) == np.isinf(exact)).all()
    is_number = np.isfinite(exact)
    assert (abs(got[is_number] - exact[is_number]) <= tolerance[is_number] * exact[is_number]).all()
