"""The cost of kernels: operations counted by hand, and the time they take at least."""

from __future__ import annotations

from unittest import mock

import pytest

from farfield_kernels import cost as cost_module
from farfield_kernels.arguments import Sizes
from farfield_kernels.cost import Cost, cost, operations, register_tile, stage_costs
from farfield_kernels.execute import Work
from farfield_kernels.expr import OPERATORS
from farfield_kernels.machine import measured
from farfield_kernels.operation import Spec
from farfield_kernels.stages import Stage, plan_call
from kernels.made_up_limits import FUNCTION_NS, made_up_limits
from kernels.operator_checks import Arguments, calls_of, stages
from kernels.reduction_checks import VARIANT_IDS, VARIANTS, spec_of

LEVELS = ("row", "col", "pair")
SEED = Spec("Square(p-a)*Exp(x+y)", ("x = Vi(3)", "y = Vj(3)", "a = Vj(1)", "p = Pm(1)"))


def gaussian(D: int, Dv: int = 1) -> Spec:
    """A Gaussian sum of D dims and Dv weights."""
    return Spec("Exp(-g*SqDist(x,y))*b", (f"x = Vi({D})", f"y = Vj({D})", f"b = Vj({Dv})", "g = Pm(1)"))


def stage(spec: Spec, dtype: str = "float32") -> Stage:
    """The only stage of a call."""
    (only,) = plan_call(spec, dtype, "cpu").stages
    return only


def per_pair(spec: Spec) -> dict[str, float]:
    """The operations of one pair, but for what is read."""
    only = stage(spec)
    found = operations(only.program, only.emitted.schedule, "pair")
    return {name: count for name, count in found.items() if name != "load"}


def points(D: int) -> tuple[str, str]:
    """Two clouds of points."""
    return f"x = Vi({D})", f"y = Vj({D})"


BY_HAND = {
    # a square each for the distance, the product with -g log2 e, the product with b that the sum takes in
    "Gauss D3": (gaussian(3), {"add": 3, "fma": 3 + 1 + 1, "exp2": 1}),
    "Gauss D64": (gaussian(64), {"add": 64, "fma": 64 + 1 + 1, "exp2": 1}),
    "Gauss D3 v16": (gaussian(3, 16), {"add": 3, "fma": 3 + 1 + 16, "exp2": 1}),
    "seed": (SEED, {"add": 3, "exp": 3, "fma": 3}),
    "dot products": (Spec("x|y", points(3), "Max", nan_policy="ignore"), {"fma": 3, "largest": 1}),
    # the maximum, the difference to it, and the sum of powers
    "LogSumExp": (Spec("x|y", points(3), "LogSumExp"), {"fma": 3, "largest": 1, "add": 2, "exp": 1}),
    # softmax weighs each power by 1 and by 64 components
    "attention": (
        Spec("x|y", (*points(64), "v = Vj(64)"), "SumSoftMaxWeight", formula2="v"),
        {"fma": 64 + 64, "largest": 1, "add": 1 + 1, "exp": 1},
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_operations_of_a_pair_are_those_counted_by_hand(name: str) -> None:
    """Distances, products, sums; loops over components count as often as they run."""
    spec, expected = BY_HAND[name]
    assert per_pair(spec) == expected


def test_what_is_computed_once_per_row_or_column_is_no_part_of_a_pair() -> None:
    """The seed's square of p - a is paid per column; its gradients by y have it per row."""
    only = stage(SEED)
    assert operations(only.program, only.emitted.schedule, "col") == {"add": 1, "fma": 1}
    assert operations(only.program, only.emitted.schedule, "row") == {}
    by_y = stage(SEED.vjp((1,)))
    assert operations(by_y.program, by_y.emitted.schedule, "row") == {"add": 1, "fma": 1}


def test_register_tiles_read_less_than_straight_text() -> None:
    """Of 64 components a tile reads each of a row once for its columns; then the sum, and half a weight."""
    only = stage(gaussian(64))
    loads = operations(only.program, only.emitted.schedule, "pair")["load"]
    vectors, columns = register_tile()
    assert loads == pytest.approx(64 * (1 / columns + 1 / vectors) + 1 + 1 / 2)


def test_the_limit_is_that_of_the_busiest_units() -> None:
    """Sums go on beside fused products; reading takes as long as both if there is more of it."""
    only = stage(gaussian(3))
    limits = made_up_limits()
    of_pairs = cost(only.program, only.emitted.schedule, 1000, 1000)
    assert of_pairs.cpu_s(limits) == pytest.approx(1e6 / 16 * (5 + FUNCTION_NS) * 1e-9)
    read = Cost("float32", (), moved_bytes=10**9, threads=2)
    assert read.cpu_s(limits) == pytest.approx(0.1)
    assert read.wall_s(limits) == pytest.approx(0.05)


def test_moved_bytes_are_arguments_and_results_once() -> None:
    """Two clouds of 3 dims, weights, a parameter, and one number per row; indices take 8 bytes."""
    only = stage(gaussian(3))
    assert cost(only.program, only.emitted.schedule, 100, 50).moved_bytes == 4 * (300 + 150 + 50 + 1 + 100)
    selected = stage(Spec("SqDist(x,y)", points(3), "ArgKMin", opt_arg=2))
    assert cost(selected.program, selected.emitted.schedule, 100, 50).moved_bytes == 4 * 450 + 8 * 200
    assert cost(selected.program, selected.emitted.schedule, 100, 50, batches=3).moved_bytes == 3 * (1800 + 1600)


def test_threads_are_those_that_find_work() -> None:
    """Little work is done by one thread, one block of rows with too few columns to split too."""
    only = stage(gaussian(3))
    with mock.patch.object(cost_module, "thread_count", return_value=4):
        assert cost(only.program, only.emitted.schedule, 10, 10).threads == 1
        assert cost(only.program, only.emitted.schedule, 256, 2000).threads == 1
        assert cost(only.program, only.emitted.schedule, 10_000, 10_000).threads == 4
        assert cost(only.program, only.emitted.schedule, 100, 100_000).threads == 4


def test_passes_cost_rows_and_columns() -> None:
    """A separated sum of twice as many rows and columns costs twice, not four times as much."""
    limits = made_up_limits()

    def seconds(M: int, separation: str) -> float:
        call = plan_call(SEED, "float32", "cpu")
        work = Work(call, Sizes("float32", M, M), None, separation)
        return sum(of.cpu_s(limits) for of in stage_costs(work, call.stages[0]))

    assert seconds(200_000, "on") == pytest.approx(2 * seconds(100_000, "on"), rel=1e-3)
    assert seconds(200_000, "off") == pytest.approx(4 * seconds(100_000, "off"), rel=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_operator_has_rates(dtype: str) -> None:
    """Whatever the declarations are written in is understood, and measured."""
    known = set(measured(dtype))
    for name in sorted(OPERATORS):
        formulas = [call.formula for call in calls_of(name, Arguments(), dtype)]
        if not formulas:
            continue
        program, schedule, _ = stages(formulas, dtype)
        for level in LEVELS:
            assert set(operations(program, schedule, level)) <= known, name


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=VARIANT_IDS)
def test_every_reduction_has_rates(name: str, options: dict[str, str]) -> None:
    """So do the steps of reductions, forward and for gradients."""
    known = set(measured("float32"))
    for only in plan_call(spec_of(name, **options), "float32", "cpu").stages:
        found = operations(only.program, only.emitted.schedule, "pair")
        assert found
        assert set(found) <= known
        few = only.for_few_rows
        assert few is None or operations(few.program, few.schedule, "pair")
