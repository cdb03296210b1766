"""Kernels on tensor cores are as exact as those that compute pairs one by one, whatever the data."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from cuda.simt.device import Emulated, emulated
from cuda.test_emitted_text_runs import computed
from farfield_kernels import execute
from farfield_kernels.emit import cuda_contraction
from farfield_kernels.expr import Array
from farfield_kernels.operation import Spec, read
from farfield_kernels.reference import reference
from farfield_kernels.schedule_contraction import is_for
from farfield_kernels.stages import plan_call
from kernels.range_cases import six_arrays
from kernels.reduction_checks import forced_splits

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ is installed")
GOLDEN = Path(__file__).parent.parent / "kernels" / "golden"
DIMS = (16, 17, 31, 64, 100, 256)
WORST = 2.0  # times the error of pairs computed one by one
ROUNDING = 2e-7  # of a result, where the direct error is smaller by luck


@pytest.fixture(scope="module")
def device() -> Iterator[Emulated]:
    """What `cuda` is in these tests."""
    with emulated() as device:
        yield device


def variables(dim: int, *more: str) -> tuple[str, ...]:
    """Points of both axes, and other variables."""
    return (f"x = Vi({dim})", f"y = Vj({dim})", *more)


def gaussian(dim: int, axis: int | None = 1) -> Spec:
    """A weighted sum of Gaussians; over rows, the weights are those of rows."""
    weights = "b = Vi(1)" if axis == 0 else "b = Vj(1)"
    return Spec("Exp(-g*SqDist(x,y))*b", variables(dim, weights, "g = Pm(1)"), axis=axis)


def points(rows: int, dim: int, seed: int = 0) -> Array:
    """Normal numbers."""
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype("float32")


def draw(M: int, N: int, dim: int, axis: int | None = 1) -> list[Array]:
    """Arguments of `gaussian`."""
    return [points(M, dim), points(N, dim, 1), points(M if axis == 0 else N, 1, 2), np.float32([0.5 / dim])]


def scheme(spec: Spec) -> str | None:
    """Of the kernel for many rows and columns."""
    (stage,) = plan_call(spec, "float32", "cuda").stages
    return stage.contraction and stage.contraction.scheme


def errors(
    device: Emulated, spec: Spec, arrays: Sequence[Array], scale: Array, ranges: Sequence[Array] | None = None
) -> tuple[float, float]:
    """Largest errors on tensor cores and of pairs one by one, as parts of `scale`."""
    (expected,) = reference(read(spec), [a.astype("float64") for a in arrays], ranges)
    results = []
    for capability in (9, 7):
        with mock.patch.object(execute, "capability", lambda capability=capability: capability):
            results += computed(device, spec, arrays, ranges)
    own, direct = results
    kept = np.isfinite(direct) | ~np.isfinite(expected)  # elsewhere float32 overflows
    np.testing.assert_array_equal(np.isnan(own[kept]), np.isnan(expected[kept]))
    found = []
    for got in (own, direct):
        same = ~kept | (got == expected) | np.isnan(expected)
        with np.errstate(all="ignore"):
            found.append(float(np.where(same, 0, np.abs(got - expected) / scale).max(initial=0)))
    return found[0], found[1]


def total(spec: Spec, arrays: Sequence[Array], ranges: Sequence[Array] | None = None) -> Array:
    """The sum of the absolute values of what `spec` sums; scalar products, of their terms."""
    formula = spec.formula.replace("(x|y)", "(Abs(x)|Abs(y))")
    absolute = Spec(f"Abs({formula})", spec.variables, axis=spec.axis)
    (found,) = reference(read(absolute), [a.astype("float64") for a in arrays], ranges)
    return found + 1e-300


def check(
    device: Emulated, spec: Spec, arrays: Sequence[Array], what: str, ranges: Sequence[Array] | None = None
) -> None:
    """The error is no more than twice that of pairs computed one by one."""
    assert scheme(spec) == "contraction"
    own, direct = errors(device, spec, arrays, total(spec, arrays, ranges), ranges)
    print(what, own, direct)
    assert own <= WORST * max(direct, ROUNDING), f"{what}: {own}, directly {direct}"


@pytest.mark.parametrize("dim", DIMS)
def test_every_dim_is_as_exact(dim: int, device: Emulated) -> None:
    """Gaussians and scalar products, at sizes around tiles and blocks, over either axis."""
    for M, N in ((33, 32), (127, 33), (128, 31 + 32), (129, 300)):
        for axis in (0, 1):
            check(device, gaussian(dim, axis), draw(M, N, dim, axis), f"gaussian {dim}, {M, N}, axis {axis}")
    product = Spec("Square((x|y))*b", variables(dim, "b = Vj(1)"))
    check(device, product, draw(70, 300, dim)[:3], f"product {dim}")


def clusters(rows: int, dim: int, spread: float, seed: int = 0) -> Array:
    """Points close to one of a few centres, the same for every seed."""
    centres = 10 * points(5, dim, 7)
    which = np.random.default_rng(seed).integers(5, size=rows)
    return centres[which] + np.float32(spread) * points(rows, dim, seed)


def with_values(array: Array, values: Sequence[float]) -> Array:
    """Some elements of an array replaced, in rows that are not neighbours."""
    changed = array.copy()
    for k, value in enumerate(values):
        changed[3 + 7 * k, (5 * k) % array.shape[1]] = value
    return changed


NAN, INF = float("nan"), float("inf")
M, N, DIM = 70, 100, 40
X, Y = points(M, DIM), points(N, DIM, 1)
DATA = {
    "offset": (X + 1000, Y + 1000),
    "far apart": (X + 300, Y - 500),
    "tight clusters": (clusters(M, DIM, 0.01), clusters(N, DIM, 0.01, 1)),
    "duplicates": (X, np.concatenate([X, Y])[:N]),
    "duplicates of clusters": (clusters(M, DIM, 1e-4), np.concatenate([clusters(M, DIM, 1e-4), Y])[:N]),
    "zeros": (X * 0, Y * 0),
    "some zeros": (X * (points(M, 1, 5) > 0), Y * (points(N, 1, 6) > 0)),
    "denormals": (X * np.float32(1e-40), Y * np.float32(1e-40)),
    "tiny": (X * np.float32(1e-30), Y * np.float32(1e-30)),
    "small": (X * np.float32(1e-18), Y * np.float32(1e-18)),
    "huge": (X * np.float32(1e30), Y * np.float32(1e30)),
    "large": (X * np.float32(1e17), Y * np.float32(1e17)),
    "a few huge": (with_values(X, [1e30, -1e30, 1e20]), with_values(Y, [1e30, 3e38, -1e19])),
    "a few tiny": (with_values(X, [1e-30, 1e-45]), with_values(Y, [-1e-30, 1e-40])),
    "all sizes": (X * np.exp2(20 * points(M, 1, 5)), Y * np.exp2(20 * points(N, 1, 6))),
    "components of all sizes": (X * np.exp2(6 * points(1, DIM, 5)), Y * np.exp2(6 * points(1, DIM, 5))),
    "infinities": (with_values(X, [INF, -INF]), with_values(Y, [INF])),
    "NaN": (with_values(X, [NAN]), with_values(Y, [0.0, NAN, INF])),
}  # fmt: skip
KERNELS = {
    "Gaussian": "Exp(-g*SqDist(x,y))*b",
    "narrow Gaussian": "Exp(-20*g*SqDist(x,y))*b",
    "Laplacian": "Exp(-Sqrt(g*SqDist(x,y)))*b",
    "distance": "SqDist(x,y)*b",
    "root": "Sqrt(SqDist(x,y))*b",
    "Cauchy": "Inv(1+g*SqDist(x,y))*b",
    "product": "(x|y)*(x|y)*b*g",
    "of both": "Exp(-g*SqDist(x,y))*(x|y)*b",
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("data", DATA)
def test_hard_data_are_as_exact(data: str, kernel: str, device: Emulated) -> None:
    """Cancellation, overflow, and numbers that are none: pairs that need it are computed one by one."""
    x, y = DATA[data]
    spec = Spec(KERNELS[kernel], variables(DIM, "b = Vj(1)", "g = Pm(1)"))
    with np.errstate(all="ignore"):
        g = np.float32([0.5 / DIM])
        check(device, spec, [x, y, points(N, 1, 2), g], f"{kernel} of {data}")


def test_a_centre_makes_guards_rare(device: Emulated) -> None:
    """Points far from the origin need no pair computed directly: without any, they are as exact."""
    x, y = DATA["offset"]
    with mock.patch.object(cuda_contraction, "NEAR", -1e9):
        plan_call.cache_clear()
        try:
            spec = Spec(KERNELS["root"], variables(DIM, "b = Vj(1)", "g = Pm(1)"))
            check(device, spec, [x, y, points(N, 1, 2), np.float32([1])], "offset, unguarded")
        finally:
            plan_call.cache_clear()


ATTENTION = Spec("(x|y)*g", variables(64, "v = Vj(4)", "g = Pm(1)"), "SumSoftMaxWeight", formula2="v")
LOGSUMEXP = Spec("-g*SqDist(x,y)", variables(40, "g = Pm(1)"), "LogSumExp")


@pytest.mark.parametrize("spec", [ATTENTION, LOGSUMEXP], ids=["softmax", "LogSumExp"])
def test_shifted_sums_are_as_exact(spec: Spec, device: Emulated) -> None:
    """The terms of a tile are shifted by their maximum; large ones do not overflow."""
    assert scheme(spec) == "contraction"
    dim = 64 if spec is ATTENTION else 40
    for M, N in ((33, 32), (129, 33), (40, 600)):
        for factor in (1, 100):
            weights = [points(N, 4, 3)] if spec is ATTENTION else []
            arrays = [points(M, dim), points(N, dim, 1), *weights, np.float32([factor / 8])]
            size = np.float64(1 if spec is ATTENTION else max(1, factor * dim / 8))
            own, direct = errors(device, spec, arrays, size)
            assert own <= WORST * max(direct, ROUNDING), f"{M, N}, {factor}: {own}, directly {direct}"


def test_gradient_with_respect_to_weights_is_as_exact(device: Emulated) -> None:
    """The same kernel matrix, transposed, and the sum over both axes for a parameter."""
    spec = gaussian(64).vjp((2,))
    assert scheme(spec) == "contraction"
    arrays = [*draw(129, 70, 64), points(129, 1, 5)]
    own, direct = errors(device, spec, arrays, np.float64(10))
    assert own <= WORST * max(direct, ROUNDING)
    both = gaussian(64, None)
    own, direct = errors(device, both, draw(129, 70, 64), total(both, draw(129, 70, 64)))
    assert own <= WORST * max(direct, ROUNDING)


def test_batches_are_as_exact(device: Emulated) -> None:
    """Each element of a batch has its own data, and shares what has no batch."""
    x, y, b, g = draw(70, 100, 40)
    arrays = [np.stack([x, 2 * x]), y, np.stack([b, -b]), g]
    check(device, gaussian(40), arrays, "batch")


@pytest.mark.parametrize("axis", [0, 1])
def test_ranges_are_as_exact(axis: int, device: Emulated) -> None:
    """Rows meet the columns of their ranges alone, none of which begins or ends at a tile."""
    ranges = six_arrays([((0, 10), [(0, 7), (30, 95)]), ((10, 150), [(5, 40)]), ((150, 170), [])], 100)
    check(device, gaussian(40, axis), draw(170, 100, 40, axis), f"ranges, axis {axis}", ranges)


@pytest.mark.parametrize("spec", [gaussian(40), gaussian(100, 0), gaussian(16, None), ATTENTION, LOGSUMEXP])
def test_order_and_splits_change_no_bit(spec: Spec, device: Emulated) -> None:
    """Threads in three orders, and a launch in parts, give the same bits; splits the same numbers."""
    dim = int(spec.variables[0][7:-1])
    weights = [points(600, 4, 3)] if spec is ATTENTION else [] if spec is LOGSUMEXP else [points(600, 1, 2)]
    arrays = [points(600, dim), points(600, dim, 1), *weights, np.float32([1 / dim])]
    (whole,) = computed(device, spec, arrays)
    for splits in (1, 3):
        with forced_splits(splits):
            (forward,) = computed(device, spec, arrays)
            np.testing.assert_allclose(forward, whole, rtol=2e-5, atol=1e-5)
            others = [computed(device, spec, arrays, order=order)[0] for order in ("backward", 1)]
            others += computed(device, spec, arrays, order="backward", in_parts=True)
        for other in others:
            np.testing.assert_array_equal(other, forward)


@pytest.mark.parametrize("spec", [gaussian(100), ATTENTION], ids=["gaussian", "softmax"])
def test_sanitizers_find_nothing(spec: Spec) -> None:
    """No read or write past an end, no overflow of an integer."""
    with emulated(sanitize=True) as device:
        if spec is ATTENTION:
            computed(device, spec, [points(130, 64), points(45, 64), points(45, 4), np.float32([0.1])])
        else:
            computed(device, spec, draw(130, 45, 100))


def test_what_tensor_cores_do_not_do_stays_direct() -> None:
    """Short vectors, selections, float64, and vectors that are computed rather than read."""
    for formula, dim, reduction in (
        ("SqDist(x,y)", 15, "Sum"),
        ("SqDist(x,y)", 40, "Min"),
        ("SqDist(Exp(x),y)", 40, "Sum"),
        ("Exp(x-y)", 40, "Sum"),
    ):
        spec = Spec(formula, variables(dim), reduction)
        assert scheme(spec) is None, formula
    (stage,) = plan_call(gaussian(40), "float64", "cuda").stages
    assert stage.contraction is None


def test_small_calls_and_old_devices_stay_direct() -> None:
    """A block of rows must be full enough, and the device must have the instructions."""
    assert is_for(33, 32, 8)
    assert not is_for(32, 1000, 9)
    assert not is_for(1000, 31, 9)
    assert not is_for(1000, 1000, 7)


GOLDEN_SPECS = {"gaussian_64": gaussian(64), "attention_64": ATTENTION}


@pytest.mark.parametrize("name", GOLDEN_SPECS)
def test_emitted_source_is_the_golden_one(name: str, request: pytest.FixtureRequest) -> None:
    """A change of emitted code shows as a diff of these files: `pytest --update-golden` writes them anew."""
    (stage,) = plan_call(GOLDEN_SPECS[name], "float32", "cuda").stages
    assert stage.contraction is not None
    source, path = stage.by(stage.contraction).source, GOLDEN / f"{name}_contraction.cu"
    if request.config.getoption("--update-golden"):
        path.write_text(source)
    assert source == path.read_text(), f"{path.name} differs; see git diff after --update-golden"
