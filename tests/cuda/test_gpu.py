"""The checks of operators, reductions and gradients on a CUDA device, where there is one."""

from __future__ import annotations

import importlib.util
import warnings

import numpy as np
import pytest

from farfield_kernels import engine
from farfield_kernels.build import cuda_device_count
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
