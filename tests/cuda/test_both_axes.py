"""Where both axes are reduced, blocks leave one state each, and the first of equal pairs wins whoever meets it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from unittest import mock

import numpy as np
import pytest

from cuda.simt.device import Emulated, emulated
from cuda.test_contraction import LOGSUMEXP, errors, points, scheme
from cuda.test_emitted_text_runs import check, computed
from cuda.test_schedules import chosen, shared_by
from farfield_kernels import cuda_launch
from farfield_kernels.cuda_device import current_cuda
from farfield_kernels.cuda_launch import CudaKernel
from farfield_kernels.expr import Array
from farfield_kernels.launch import Extent
from farfield_kernels.operation import Spec, read
from farfield_kernels.reductions import REDUCTIONS
from farfield_kernels.reference import reference
from farfield_kernels.schedule_cuda import THREADS, WARP
from farfield_kernels.stages import Stage, plan_call
from kernels.batch_cases import BATCHES, drawn
from kernels.reduction_checks import assert_results, draw, forced_splits, spec_of

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ is installed")
MERGED = [name for name in sorted(REDUCTIONS) if name != "Sum"]
PLACED = ["ArgMax", "ArgMin", "ArgKMax", "ArgKMin"]


@pytest.fixture(scope="module")
def device() -> Iterator[Emulated]:
    """What `cuda` is in these tests."""
    with emulated() as device:
        yield device


def stage_of(spec: Spec, dtype: str = "float32") -> Stage:
    """The one kernel of a call."""
    (stage,) = plan_call(spec, dtype, "cuda").stages
    return stage


@pytest.mark.parametrize("name", MERGED)
def test_blocks_are_merged_in_levels(name: str, device: Emulated) -> None:
    """Two states by a block at a time, of five blocks, of batches too: the same results, in any order."""
    spec = spec_of(name, None)
    rows = 4 * THREADS * stage_of(spec, "float64").emitted.schedule.rows + 5
    with mock.patch.object(cuda_launch, "STATES", 2):
        check(device, spec, draw(rows, 4, "float64"), 1e-13, name)
        check(device, spec, drawn(BATCHES["crossed"], 70, 9, "float64"), 1e-13, f"{name} of batches")


@pytest.mark.parametrize("team", [1, 8, THREADS])
@pytest.mark.parametrize("name", PLACED)
def test_the_first_of_equal_pairs_wins(name: str, team: int, device: Emulated) -> None:
    """Ties within a thread, a warp, a block, and between blocks and splits; NaN among them."""
    spec = spec_of(name, None, "x*y", ("x = Vi(1)", "y = Vj(1)"))
    sign, count = 1 if name.endswith("Max") else -1, 1300 // team
    for best in (2.0 * sign, np.nan):
        for places in ((0.54, 0.999), (0.03, 0.06, 0.8), (0.4, 0.401), (0.0,)):
            rows = [int(place * count) for place in places]
            x = np.full((count, 1), sign, "f")
            y = np.ones((300, 1), "f")
            x[rows, 0], y[[17, 40, 299], 0] = best, 1.5
            with chosen(shared_by(team, 2)):
                check(device, spec, [x, y], 1e-6, f"{name}, {best} in rows {rows}")


def test_one_state_of_a_block_is_kept(device: Emulated) -> None:
    """Memory grows with blocks and splits, not with rows, and that of all levels is enough."""
    stage = stage_of(spec_of("LogSumExp", None, "x*y", ("x = Vi(1)", "y = Vj(1)")))
    kernel = CudaKernel(*stage.emitted.parts)
    own = THREADS * stage.emitted.schedule.rows
    for blocks, splits, states in ((3, 1, 3), (40, 2, 80), (3000, 1, 3002), (5000, 2, 10_005)):
        with forced_splits(splits):
            planned = kernel.launch(Extent(blocks * own, 10, 7, terms=10 * blocks * own))
        partial, _ = planned.memory(current_cuda().open([]))
        assert partial.shape == (7 * 2 * states,)


def test_lists_too_long_to_meet_in_shared_memory(device: Emulated) -> None:
    """Warps leave a state each, which one warp merges."""
    spec = Spec("x*y", ("x = Vi(1)", "y = Vj(1)"), "KMin_ArgKMin", None, opt_arg=900)
    assert stage_of(spec).emitted.schedule.mergers == WARP
    check(device, spec, [points(150, 1), points(9, 1, 1)], 1e-6, "lists of 900")


def test_many_rows_are_as_exact_as_few(device: Emulated) -> None:
    """The states of rows are doubles: twenty thousand rows lose nothing that float32 shows."""
    for name in ("LogSumExp", "Mean", "Std"):
        spec = spec_of(name, None, "x+y", ("x = Vi(1)", "y = Vj(1)"))
        arrays: list[Array] = [np.abs(points(20_000, 1)), np.abs(points(3, 1, 1))]
        (got,) = computed(device, spec, arrays)
        assert_results([got], reference(read(spec), arrays), 6e-8, name)


def of_both(spec: Spec) -> Spec:
    """The same over both axes."""
    return Spec(spec.formula, spec.variables, spec.reduction, None, formula2=spec.formula2)


@pytest.mark.parametrize("sizes", [(33, 32), (129, 33), (600, 70)])
def test_rows_on_tensor_cores(sizes: Sequence[int], device: Emulated) -> None:
    """Threads that share rows merge all of them: as exact as pairs one by one, in any order and in levels."""
    spec = of_both(LOGSUMEXP)
    assert scheme(spec) == "contraction"
    arrays = [points(sizes[0], 40), points(sizes[1], 40, 1), np.float32([0.1])]
    own, direct = errors(device, spec, arrays, np.float64(1))
    assert own <= 2 * max(direct, 2e-7)
    with mock.patch.object(cuda_launch, "STATES", 2), forced_splits(3):
        (forward,) = computed(device, spec, arrays)
        (backward,) = computed(device, spec, arrays, order="backward")
    np.testing.assert_array_equal(forward, backward)
    np.testing.assert_allclose(forward, reference(read(spec), arrays)[0], rtol=1e-6)
