"""Calls in parts: the same bits as in one go, stops that come when they should, and what may happen at a stop."""

from __future__ import annotations

import gc
import itertools
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from farfield_kernels import blocks, execute, launch, pace
from farfield_kernels.engine import Outcome, run, run_in_parts
from farfield_kernels.errors import ShapeError
from farfield_kernels.expr import Array
from farfield_kernels.launch import CpuKernel, Extent
from farfield_kernels.operation import Spec
from farfield_kernels.reductions import REDUCTIONS
from farfield_kernels.stages import plan_call
from kernels.batch_cases import BATCHES, drawn
from kernels.range_cases import FEW, FEW_BLOCKS, WIDE, WIDE_BLOCKS, six_arrays
from kernels.reduction_checks import VARIANT_IDS, VARIANTS, arguments_of_vjp, draw, forced_splits, spec_of

pytestmark = pytest.mark.usefixtures("path")  # compiled, and on NumPy

GAUSS = Spec("Exp(-SqDist(x,y))*b", ("x = Vi(3)", "y = Vj(3)", "b = Vj(1)"))
DIFFERENTIABLE = [name for name in sorted(REDUCTIONS) if REDUCTIONS[name].gradient or REDUCTIONS[name].saving]
WRT = (0, 1, 2, 3)


@pytest.fixture(autouse=True)
def many_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads whatever the machine, and blocks of few rows on NumPy."""
    for module in (launch, blocks):
        monkeypatch.setattr(module, "thread_count", lambda: 2)
    monkeypatch.setattr(blocks, "NUMBERS", 2**15)


def gauss_arrays(M: int, N: int) -> list[Array]:
    """Its arguments, in float32."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(np.float32) for shape in ((M, 3), (N, 3), (N, 1))]


def finished(parts: Any) -> tuple[Outcome, list[float]]:
    """What a call in parts returns, and what it yields until then."""
    fractions = []
    while True:
        try:
            fractions.append(next(parts))
        except StopIteration as end:
            return end.value, fractions


def stops(spec: Spec, arrays: Sequence[Array], what: str, ranges: Sequence[Array] | None = None) -> int:
    """How often a call stops that does so after every unit; its results are those of the call in one go."""
    whole = run(spec, arrays, device="cpu", ranges=ranges).arrays
    outcome, fractions = finished(run_in_parts(spec, arrays, device="cpu", ranges=ranges, part_s=0.0))
    assert fractions == sorted(set(fractions)), what
    assert all(0 < fraction < 1 for fraction in fractions), what
    for a, b in zip(outcome.arrays, whole, strict=True):
        np.testing.assert_array_equal(a, b, what)
    return len(fractions)


# ---- the same results ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, None])
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=VARIANT_IDS)
def test_every_reduction_is_the_same_in_parts(name: str, options: dict[str, Any], axis: int | None) -> None:
    """Over either axis and both, at sizes of several blocks and none, whole and with the columns split."""
    spec = spec_of(name, axis, **options)
    for M, N in ((300, 1300) if axis == 0 else (1300, 300), (1, 1), (0, 5), (5, 0), (0, 0)):
        arrays = draw(M, N, "float32")
        found = stops(spec, arrays, f"{M} x {N}")
        assert (found > 0) == (M * N > 1 and (axis is not None or launches_blocks(spec))), f"{M} x {N}"
        with forced_splits(3):
            stops(spec, arrays, f"{M} x {N}, split")


def launches_blocks(spec: Spec) -> bool:
    """Whether units are blocks of rows: on NumPy, both axes are reduced in one piece."""
    (stage,) = plan_call(spec, "float32", "cpu").stages
    return execute.backend_for("cpu") is execute.HOST or not stage.program.over_rows


def has_kernels(spec: Spec) -> bool:
    """Not all gradients are zero whatever the data."""
    return bool(plan_call(spec, "float64", "cpu").stages)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_are_the_same_in_parts(name: str, axis: int) -> None:
    """Kernels of both axes one after the other, the sum over rows of a parameter, numbers that were saved."""
    spec = spec_of(name, axis)
    for M, N in ((1300, 1200), (0, 5), (5, 0)):
        taken = arguments_of_vjp(spec, draw(M, N, "float64"))
        found = stops(spec.vjp(WRT), taken, f"{M} x {N}")
        assert (found > 1) == (M * N > 0 and has_kernels(spec.vjp(WRT))), f"{M} x {N}"


@pytest.mark.parametrize("name", sorted(REDUCTIONS))
def test_batches_are_the_same_in_parts(name: str) -> None:
    """Elements of any axes, with and without ranges."""
    spec = spec_of(name)
    for what, batches in BATCHES.items():
        arrays = drawn(batches, *FEW)
        found = stops(spec, arrays, what)
        assert (found > 0) == (what not in ("axes of one", "none", "none of many")), what
        stops(spec, arrays, f"{what}, ranges", six_arrays(FEW_BLOCKS, FEW[1]))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_of_batches_and_ranges_are_the_same_in_parts(name: str) -> None:
    """Sums over what broadcasts, tables of blocks of several rows."""
    spec = spec_of(name)
    ranges = six_arrays(FEW_BLOCKS, FEW[1])
    for what in ("each another", "p alone"):
        taken = arguments_of_vjp(spec, drawn(BATCHES[what], *FEW), ranges)
        assert (stops(spec.vjp(WRT), taken, what, ranges) > 1) == has_kernels(spec.vjp(WRT)), what
    ranges = six_arrays(WIDE_BLOCKS, WIDE[1])
    taken = arguments_of_vjp(spec, draw(*WIDE, "float32"), ranges)
    assert (stops(spec.vjp(WRT), taken, "wide", ranges) > 1) == has_kernels(spec.vjp(WRT))


@pytest.mark.parametrize("separation", ["on", "auto"])
def test_passes_are_one_part_and_what_they_are_refused_for_is_in_parts(separation: str) -> None:
    """A separated sum does not stop; where its results are refused, the kernel over pairs does."""
    spec = Spec(
        "Square(p-a)*Exp(x+y)", ("x = Vi(3)", "y = Vj(3)", "a = Vj(1)", "p = Pm(1)"), separation=separation
    )
    rng = np.random.default_rng(0)
    arrays = [rng.uniform(0.2, 1, shape) for shape in ((1300, 3), (300, 3), (300, 1), (1,))]
    assert (stops(spec, arrays, "accepted") == 0) == (separation == "on")
    arrays[1][7] = np.nan
    assert stops(spec, arrays, "refused") > 0


# ---- stops ---------------------------------------------------------------------------------------------------


def test_a_short_call_does_not_stop() -> None:
    """Predicted to be short, as few pairs are, or found to be."""
    assert finished(run_in_parts(GAUSS, gauss_arrays(600, 600), device="cpu"))[1] == []
    arrays = gauss_arrays(3000, 6000)
    assert finished(run_in_parts(GAUSS, arrays, device="cpu", part_s=60.0))[1] == []


def test_no_part_takes_much_longer_than_asked() -> None:
    """Of a call of many units, in CPU time; most parts are not much shorter either."""
    arrays = gauss_arrays(20_000, 6000)
    run(GAUSS, gauss_arrays(8, 8), device="cpu")
    begun = time.process_time()
    run(GAUSS, arrays, device="cpu")
    part_s = (time.process_time() - begun) / 8
    parts = run_in_parts(GAUSS, arrays, device="cpu", part_s=part_s)
    taken, is_over = [], False
    while not is_over:
        begun = time.process_time()
        is_over = next(parts, None) is None
        taken.append((time.process_time() - begun) / launch.thread_count())
    assert 4 <= len(taken) <= 40
    assert np.median(taken) < 2 * part_s


def test_blocks_of_ranges_are_stopped_at_by_their_work() -> None:
    """One unit may meet all columns and the others none: the work of a part is counted, not its units."""
    (stage,) = plan_call(GAUSS, "float32", "cpu").stages
    blocks = np.array([[k, k + 1, 0, 1 if k >= 90 else 0] for k in range(100)])
    extent = Extent(100, 50, 3, None, blocks, np.array([[0, 50]]), terms=500)
    of_table = launch.Launch(CpuKernel(*stage.emitted.parts), extent, 300, workers=2)
    assert of_table.reached(300) == of_table.steps
    of_element = of_table.steps / 3
    assert of_table.reached(90) == pytest.approx(90 / 600 * of_element)
    assert of_table.reached(100) == pytest.approx(of_element)
    assert of_table.end(0, 0.1 * of_element) == 60
    assert of_table.end(60, 0.89 * of_element) == 98
    assert of_table.end(98, of_element) == 198
    assert of_table.end(98, 0.0) == 100
    assert of_table.end(299, 0.0) == of_table.end(250, 9 * of_element) == 300


def test_the_first_part_is_small_and_the_next_ones_grow_to_the_measured_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a clock of our own: 1e9 steps a second, 1000 units of 1e7 steps, parts of 0.2 s."""
    now = 0.0
    monkeypatch.setattr(pace.time, "perf_counter", lambda: now)
    units = launch.Launch(None, Extent(1, 1), 1000, workers=2)
    units.__dict__["steps"] = 1e10
    of_call, end, sizes, resumed, between = pace.Pace(0.2, units.steps), 0, [], 0.0, []
    while end < units.units:
        first, end = end, of_call.end(units, end)
        now += (end - first) * 0.01
        sizes.append(end - first)
        if of_call.is_due(units, first, end):
            between.append(now - resumed)
            now += 100.0
            of_call.resume()
            resumed = now
    assert sizes[0] == 2
    assert all(later <= pace.GROWTH * earlier for earlier, later in itertools.pairwise(sizes))
    assert sizes[2:-1] == [20] * len(sizes[2:-1])
    assert max(between) <= 0.2 + 1e-9
    assert of_call.fraction == 1


def test_what_was_run_before_begins_with_a_part_of_its_rate() -> None:
    """A short call that is made again is one part, as it surely ends in time, were it slower by a lot."""
    units = launch.Launch(None, Extent(1, 1), 1000, workers=2)
    units.__dict__["steps"] = 1e10
    of_call = pace.Pace(0.2, units.steps)
    assert of_call.end(units, 0) == 2
    of_call.is_due(units, 0, units.units)
    assert units.last_rate > 1e10
    units.last_rate = 1e11
    assert pace.Pace(0.2, units.steps).end(units, 0) == 0.2 * 1e11 / 1e7 / pace.GROWTH
    assert pace.Pace(1.0, units.steps).end(units, 0) == units.units


def test_time_between_parts_is_not_counted() -> None:
    """Timing is that of the parts."""
    parts = run_in_parts(GAUSS, gauss_arrays(1500, 600), device="cpu", part_s=0.0)
    next(parts)
    time.sleep(0.5)
    outcome, fractions = finished(parts)
    assert fractions
    assert 0 < outcome.timing.kernel_ms < 500


# ---- at a stop -----------------------------------------------------------------------------------------------


def test_other_calls_can_be_run_between_parts() -> None:
    """Of the same kernel too: two calls take turns, a third is run in one go."""
    arrays, others = gauss_arrays(1500, 600), [2 * array for array in gauss_arrays(1500, 600)]
    expected = [run(GAUSS, taken, device="cpu").arrays[0] for taken in (arrays, others)]
    calls = [run_in_parts(GAUSS, taken, device="cpu", part_s=0.0) for taken in (arrays, others)]
    for _ in range(2):
        for call in calls:
            next(call)
    np.testing.assert_array_equal(run(GAUSS, arrays, device="cpu").arrays[0], expected[0])
    for call, result in zip(calls, expected, strict=True):
        np.testing.assert_array_equal(finished(call)[0].arrays[0], result)


def test_a_call_goes_on_in_another_thread() -> None:
    """Each part in a thread of its own, into arrays of the caller's."""
    arrays, out = gauss_arrays(1500, 600), np.full((1500, 1), np.nan, np.float32)
    parts = run_in_parts(GAUSS, arrays, device="cpu", out=[out], part_s=0.0)
    fractions: list[float | None] = [0.0]
    while fractions[-1] is not None:
        thread = threading.Thread(target=lambda: fractions.append(next(parts, None)))
        thread.start()
        thread.join()
    assert len(fractions) >= 4
    np.testing.assert_array_equal(out, run(GAUSS, arrays, device="cpu").arrays[0])


def test_a_call_that_is_given_up_frees_its_memory() -> None:
    """After `close` nothing holds its arguments, and the engine computes on."""
    arrays = gauss_arrays(1500, 600)
    expected = run(GAUSS, arrays, device="cpu").arrays[0]
    x = arrays[0].copy()
    parts = run_in_parts(GAUSS, [x, *arrays[1:]], device="cpu", part_s=0.0)
    next(parts)
    held = weakref.ref(x)
    del x
    assert held() is not None
    parts.close()
    gc.collect()
    assert held() is None
    np.testing.assert_array_equal(run(GAUSS, arrays, device="cpu").arrays[0], expected)


def test_a_wrong_call_is_refused_at_the_first_part() -> None:
    """As `run` refuses it."""
    wrong = [*gauss_arrays(5, 7)[:2], np.ones((8, 1), np.float32)]
    with pytest.raises(ShapeError):
        next(run_in_parts(GAUSS, wrong, device="cpu"))
