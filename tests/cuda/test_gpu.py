"""The checks of operators, reductions and gradients on a CUDA device, where there is one."""

from __future__ import annotations

import importlib.util
import math
import warnings
from unittest import mock

import numpy as np
import pytest

from cuda.calls import Call, calls, gauss, gradients, in_arena
from farfield_kernels import cuda_device, engine
from farfield_kernels.build import cuda_device_count
from farfield_kernels.cuda_device import current_cuda
from farfield_kernels.errors import InsufficientMemory
from farfield_kernels.operation import Spec, read
from farfield_kernels.operators import named_operators
from farfield_kernels.reductions import REDUCTIONS
from farfield_kernels.reference import reference
from kernels.batch_cases import BATCHES
from kernels.operator_checks import check_value
from kernels.range_cases import FEW, FEW_BLOCKS, six_arrays
from kernels.reduction_checks import assert_results, check_gradient, check_reduction

pytestmark = pytest.mark.gpu

SEED = Spec("Square(p-a)*Exp(x+y)", ("x = Vi(3)", "y = Vj(3)", "a = Vj(1)", "p = Pm(1)"))


@pytest.fixture(autouse=True, scope="module")
def _device() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CuPy warns about machines without a GPU
        if importlib.util.find_spec("cupy") is None:
            pytest.skip("CuPy is not installed: pip install 'farfield[cuda13]'")
        if not cuda_device_count():
            pytest.skip("CuPy sees no CUDA device on this machine")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", sorted(name for name, op in named_operators().items() if op.cases))
def test_operators(name: str, dtype: str) -> None:
    """Every operator gives its reference's values."""
    check_value(name, dtype, "cuda")


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", sorted(REDUCTIONS))
def test_reductions(name: str, dtype: str, axis: int) -> None:
    """Every reduction at every size, whole and split."""
    check_reduction(name, dtype, axis, device="cuda")


DIFFERENTIABLE = [name for name in sorted(REDUCTIONS) if REDUCTIONS[name].gradient or REDUCTIONS[name].saving]


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients(name: str) -> None:
    """Every gradient agrees with differences of the reference."""
    check_gradient(name, 1, "cuda")


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_of_batches_and_ranges(name: str) -> None:
    """So do those of batches over parts of the columns."""
    rng = np.random.default_rng(3)
    shapes = ((FEW[0], 2), (FEW[1], 2), (FEW[1], 1), (2,))
    batches = BATCHES["each another"]
    arrays = [rng.standard_normal((*batch, *shape)) for batch, shape in zip(batches, shapes, strict=True)]
    check_gradient(name, 1, "cuda", arrays, six_arrays(FEW_BLOCKS, FEW[1]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("M", "N"), [(1, 1), (1000, 1500), (3, 200_000), (100_000, 20)])
def test_seed(M: int, N: int, dtype: str) -> None:
    """The seed and its four gradients on small, square, wide and tall problems."""
    rng = np.random.default_rng(0)
    arrays = [rng.uniform(0.2, 1, shape).astype(dtype) for shape in ((M, 3), (N, 3), (N, 1), (1,), (M, 3))]
    arrays[2] *= -1  # p - a has one sign: nothing cancels in float32
    for spec, taken in ((SEED, arrays[:4]), (SEED.vjp((0, 1, 2, 3)), arrays)):
        got = engine.run(spec, taken, device="cuda").arrays
        assert_results(got, reference(read(spec), taken), 3e-6 if dtype == "float32" else 1e-12, f"{M}, {N}")


CALLS = list(calls())


@pytest.mark.parametrize("is_pinned", [True, False], ids=["pinned", "pageable"])
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_calls_that_come_again(call: Call, is_pinned: bool) -> None:
    """New, again, and replayed as a graph, whole and in parts: the same bits."""
    taken = in_arena(call) if is_pinned else call
    expected = [result.copy() for result in taken.run()]
    reference_values = reference(read(call.spec), call.arrays, call.ranges)
    assert_results(expected, reference_values, 3e-6 if call.arrays[0].dtype == "float32" else 1e-12, call.name)
    for part_s in (math.inf, 0.25, 0.0) * 3:
        for got, same in zip(taken.run(part_s), expected, strict=True):
            np.testing.assert_array_equal(got, same, f"{call.name}, parts of {part_s} s")


@pytest.mark.parametrize("call", [gauss(70, 90), gradients(70, 90)], ids=lambda call: call.name)
def test_small_calls_become_graphs(call: Call) -> None:
    """The driver takes the capture."""
    current_cuda().replays.clear()
    for _ in range(3):
        call.run()
    (replay,) = current_cuda().replays.kept.values()
    assert replay is not None


def test_slices_give_the_same_results() -> None:
    """A million rows, copied, computed and copied back piece by piece."""
    call = in_arena(gauss(1_000_000, 40))
    results = []
    for most in (1, 8):
        with mock.patch.object(cuda_device, "MAX_SLICES", most):
            results.append(call.run()[0].copy())
    np.testing.assert_array_equal(*results)


def test_times_of_the_phases() -> None:
    """All are there, of a call by streams and of a graph."""
    call = in_arena(gauss(1_000_000, 40))
    timing = engine.run(call.spec, call.arrays, device="cuda", out=call.results()).timing
    assert timing.h2d_ms > 0
    assert timing.kernel_ms > 0
    assert timing.d2h_ms > 0


def test_a_device_that_is_full_refuses_by_name() -> None:
    """And computes what fits."""
    pool = current_cuda().memory.pool
    limit = pool.get_limit()
    current_cuda().replays.clear()
    pool.free_all_blocks()
    pool.set_limit(size=10_000_000)
    try:
        with pytest.raises(InsufficientMemory):
            gauss(1_000_000, 40).run()
        gauss(1000, 40).run()
    finally:
        pool.set_limit(size=limit)
