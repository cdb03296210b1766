"""Sums of a value of pairs times wide vectors are as exact on tensor cores as one by one, whatever the data."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from cuda.simt.device import Emulated, emulated
from cuda.test_contraction import DATA, INF, NAN, WORST, errors, points, scheme, total, variables
from cuda.test_emitted_text_runs import computed
from farfield_kernels import execute
from farfield_kernels.explain import explain
from farfield_kernels.expr import Array
from farfield_kernels.operation import Spec, read
from farfield_kernels.reference import reference
from farfield_kernels.stages import plan_call
from kernels.range_cases import six_arrays
from kernels.reduction_checks import forced_splits

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ is installed")
GOLDEN = Path(__file__).parent.parent / "kernels" / "golden"
ROUNDING = 3e-7  # of a result, by two products, where the direct error is smaller by luck
WIDTHS = (16, 64, 70, 128)
SIZES = ((1, 1), (63, 31), (64, 32), (65, 33), (129, 600))  # around tiles and blocks


@pytest.fixture(scope="module")
def device() -> Iterator[Emulated]:
    """What `cuda` is in these tests; it takes tensor cores for small calls too."""
    with (
        emulated() as device,
        mock.patch.object(execute, "is_for", lambda rows, cols, capability: capability >= 8),
    ):
        yield device


def gaussian(dim: int, width: int, axis: int = 1) -> Spec:
    """A sum of Gaussians times vectors."""
    vectors = f"v = Vi({width})" if axis == 0 else f"v = Vj({width})"
    return Spec("Exp(-g*SqDist(x,y))*v", variables(dim, vectors, "g = Pm(1)"), axis=axis)


def product(dim: int, width: int) -> Spec:
    """A sum of scalar products times vectors."""
    return Spec("v*(x|y)*g", variables(dim, f"v = Vj({width})", "g = Pm(1)"))


def attention(dim: int, width: int, reduction: str = "SumSoftMaxWeight") -> Spec:
    """Vectors weighted by exponentials of scalar products."""
    return Spec("(x|y)*g", variables(dim, f"v = Vj({width})", "g = Pm(1)"), reduction, formula2="v")


def draw(M: int, N: int, dim: int, width: int, axis: int = 1) -> list[Array]:
    """Arguments of them all."""
    vectors = points(M if axis == 0 else N, width, 2)
    return [points(M, dim), points(N, dim, 1), vectors, np.float32([0.5 / dim])]


def scale_of(spec: Spec, arrays: Sequence[Array], ranges: Sequence[Array] | None = None) -> Array:
    """The same sum of absolute values, but no less than 2^-29 of the largest of its row."""
    if spec.formula2 is None:
        found = total(spec, arrays, ranges)
        largest = np.where(np.isfinite(found), found, 0).max(-1, keepdims=True)
        return np.maximum(found, largest * 2**-29)
    absolute = replace(spec, formula2="Abs(v)")
    (found,) = reference(read(absolute), [a.astype("float64") for a in arrays], ranges)
    if spec.reduction == "LogSumExp":
        return 1 + np.abs(found)
    return np.abs(found) + 1e-300


def check(
    device: Emulated, spec: Spec, arrays: Sequence[Array], what: str, ranges: Sequence[Array] | None = None
) -> None:
    """The error is no more than twice that of pairs computed one by one."""
    assert scheme(spec) == "second product"
    with np.errstate(all="ignore"):
        own, direct = errors(device, spec, arrays, scale_of(spec, arrays, ranges), ranges)
    print(what, own, direct)
    assert own <= WORST * max(direct, ROUNDING), f"{what}: {own}, directly {direct}"


@pytest.mark.parametrize("width", WIDTHS)
def test_every_width_is_as_exact(width: int, device: Emulated) -> None:
    """Sums and softmax, at sizes around tiles and blocks."""
    for spec in (gaussian(64, width), attention(64, width)):
        for M, N in SIZES:
            check(device, spec, draw(M, N, 64, width), f"{spec.formula} {width}, {M}, {N}")


@pytest.mark.parametrize(("dim", "width"), [(16, 40), (100, 128), (256, 64), (40, 200), (40, 16)])
def test_every_dim_is_as_exact(dim: int, width: int, device: Emulated) -> None:
    """Rows that stay in shared memory and those that do not, components in one pass and in more."""
    for spec in (gaussian(dim, width, 0), product(dim, width), attention(dim, width)):
        check(device, spec, draw(70, 300, dim, width, spec.axis or 0), f"{spec.formula} {dim}, {width}")


@pytest.mark.parametrize("dim", [1, 3, 15])
def test_narrow_points_need_no_first_product(dim: int, device: Emulated) -> None:
    """Pairs that are computed one by one are multiplied with vectors all the same."""
    for spec in (gaussian(dim, 64), gaussian(dim, 33, 0), attention(dim, 64)):
        for M, N in SIZES:
            arrays = draw(M, N, dim, 64 if spec.axis else 33, spec.axis or 0)
            check(device, spec, arrays, f"{dim}, {M}, {N}")


def one_hot(rows: int, width: int) -> Array:
    """Vectors with one component that is 1."""
    return np.eye(width, dtype="f")[np.random.default_rng(0).integers(width, size=rows)]


def with_values(array: Array, values: Sequence[float]) -> Array:
    """Some elements of an array replaced."""
    changed = array.copy()
    for k, value in enumerate(values):
        changed[3 + 7 * k, (5 * k) % array.shape[1]] = value
    return changed


M, N, DIM, WIDTH = 70, 100, 40, 24
V = points(N, WIDTH, 2)
VECTORS = {
    "one hot": one_hot(N, WIDTH),
    "zeros": V * 0,
    "sparse": V * (points(N, WIDTH, 3) > 1),
    "denormals": V * np.float32(1e-40),
    "tiny": V * np.float32(1e-30),
    "huge": V * np.float32(1e30),
    "a few huge": with_values(V, [1e30, -1e30, 1e20, 3e38]),
    "a few tiny": with_values(V, [1e-30, -1e-45, 1e-6, 1e-9]),
    "columns of all sizes": V * np.exp2(12 * points(N, 1, 5)),
    "components of all sizes": V * np.exp2(12 * points(1, WIDTH, 5)),
    "all sizes": V * np.exp2(12 * points(N, WIDTH, 5)),
    "infinities": with_values(V, [INF, -INF, INF]),
    "NaN": with_values(V, [NAN, 1.0, INF]),
}
SPECS = {
    "gaussian": gaussian(DIM, WIDTH),
    "product": product(DIM, WIDTH),
    "softmax": attention(DIM, WIDTH),
    "exponential": Spec("Exp((x|y)*g)*v", attention(DIM, WIDTH).variables),
    "narrow": gaussian(3, 40),
}


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("vectors", VECTORS)
def test_hard_vectors_are_as_exact(vectors: str, name: str, device: Emulated) -> None:
    """What halves do not hold is added one by one: each component is as exact as if it were alone."""
    spec, v = SPECS[name], VECTORS[vectors]
    dim, width = (3, 40) if name == "narrow" else (DIM, WIDTH)
    v = np.ascontiguousarray(np.tile(v, 2)[:, :width])
    for factor in (1, 30) if np.isfinite(v).all() else (1,):  # none is multiplied with a 0 that is none in float64
        arrays = [points(M, dim), points(N, dim, 1), v, np.float32([factor * 0.5 / dim])]
        check(device, spec, arrays, f"{name} of {vectors}, {factor}")


POINTS = [(data, name) for data in DATA for name in ("gaussian", "product", "softmax", "exponential")]
POINTS.remove(("all sizes", "exponential"))  # float32 has infinities of both signs there, whose sum is NaN


@pytest.mark.parametrize(("data", "name"), POINTS)
def test_hard_points_are_as_exact(data: str, name: str, device: Emulated) -> None:
    """Values of pairs that overflow, vanish or are no numbers reach the sums that they reach one by one."""
    x, y = DATA[data]
    if name in ("softmax", "exponential") and data in ("offset", "far apart", "tight clusters", "all sizes"):
        x, y = x / 100, y / 100  # exponents of thousands are exact to no digit
    check(device, SPECS[name], [x, y, V, np.float32([0.5 / DIM])], f"{name} of {data}")


@pytest.mark.parametrize("reduction", ["SumSoftMaxWeight", "LogSumExp", "Max_SumShiftExpWeight"])
@pytest.mark.parametrize("ascending", [False, True])
def test_a_maximum_that_moves_is_as_exact(ascending: bool, reduction: str, device: Emulated) -> None:
    """Sums are rescaled at every tile, or never."""
    spec = attention(16, 64, reduction)
    x, y, v, g = draw(70, 700, 16, 64)
    x[:] = 1
    order = np.argsort(y.sum(1))
    y = y[order if ascending else order[::-1]] * 20
    check(device, spec, [x, y, np.abs(v), g], f"{reduction}, {ascending}")


def test_gradients_are_as_exact(device: Emulated) -> None:
    """That of vectors, and one that has others beside it."""
    x, y, v, g = draw(129, 70, 40, 64)
    e = points(129, 64, 5)
    of_vectors = gaussian(40, 64).vjp((2,))
    assert scheme(of_vectors) == "second product"
    own, direct = errors(device, of_vectors, [x, y, v, g, e], np.float64(10))
    assert own <= WORST * max(direct, ROUNDING)
    several = Spec("Exp(-g*SqDist(x,y))*Concat(v,p)", variables(40, "v = Vj(64)", "g = Pm(1)", "p = Pm(1)"))
    gradients = several.vjp((2, 4))
    (stage,) = plan_call(gradients, "float32", "cuda").stages
    assert stage.contraction is not None
    assert stage.contraction.scheme == "second product"
    arrays = [x, y, v, g, np.float32([0.5]), points(129, 65, 5)]
    expected = reference(read(gradients), [a.astype("float64") for a in arrays])
    for got, exact in zip(computed(device, gradients, arrays), expected, strict=True):
        np.testing.assert_allclose(got, exact, rtol=1e-5, atol=1e-4)


def test_batches_and_ranges_are_as_exact(device: Emulated) -> None:
    """Each element of a batch has its own data; rows meet the columns of their ranges alone."""
    for spec in (gaussian(40, 64), attention(3, 64)):
        dim = 40 if spec.formula2 is None else 3
        x, y, v, g = draw(70, 100, dim, 64)
        check(device, spec, [np.stack([x, 2 * x]), y, np.stack([v, -v]), g], "batch")
        ranges = six_arrays([((0, 10), [(0, 7), (30, 95)]), ((10, 150), [(5, 40)]), ((150, 170), [(0, 1)])], 100)
        check(device, spec, draw(170, 100, dim, 64), "ranges", ranges)


@pytest.mark.parametrize("spec", [gaussian(40, 64), attention(16, 200), gaussian(3, 64), attention(3, 70)])
def test_order_and_splits_change_no_bit(spec: Spec, device: Emulated) -> None:
    """Threads in three orders, and a launch in parts, give the same bits; splits the same numbers."""
    dim, width = (int(variable[variable.index("(") + 1 : -1]) for variable in spec.variables[1:3])
    arrays = draw(140, 1200, dim, width)
    (whole,) = computed(device, spec, arrays)
    for splits in (1, 3):
        with forced_splits(splits):
            (forward,) = computed(device, spec, arrays)
            np.testing.assert_allclose(forward, whole, rtol=2e-5, atol=3e-5)
            others = [computed(device, spec, arrays, order=order)[0] for order in ("backward", 1)]
            others += computed(device, spec, arrays, order="backward", in_parts=True)
        for other in others:
            np.testing.assert_array_equal(other, forward)


@pytest.mark.parametrize("spec", [gaussian(100, 70), attention(64, 64), gaussian(3, 40)])
def test_sanitizers_find_nothing(spec: Spec) -> None:
    """No read or write past an end, no overflow of an integer."""
    dim, width = (int(variable[variable.index("(") + 1 : -1]) for variable in spec.variables[1:3])
    with emulated(sanitize=True) as device:
        x, y, v, g = draw(130, 45, dim, width)
        computed(device, spec, [x, y, with_values(v, [INF, NAN, 1e-30]), g])


def test_a_plan_says_how_it_sums() -> None:
    """`explain` names the scheme; what is narrow or computed stays as it was."""
    assert "pairs and their sums, on tensor cores, 64 components at a time" in explain(
        attention(64, 64), device="cuda", sizes=(4096, 4096), with_source=False
    )
    assert scheme(attention(64, 7)) == "contraction"
    for spec in (gaussian(3, 31), gaussian(64, 15), Spec("Exp(-SqDist(x,y))*Exp(y)", variables(64))):
        assert scheme(spec) is None


@pytest.mark.parametrize(
    ("name", "spec"), [("gaussian_3_40", gaussian(3, 40)), ("attention_64_64", attention(64, 64))]
)
def test_emitted_source_is_the_golden_one(name: str, spec: Spec, request: pytest.FixtureRequest) -> None:
    """A change of emitted code shows as a diff of these files: `pytest --update-golden` writes them anew."""
    (stage,) = plan_call(spec, "float32", "cuda").stages
    assert stage.contraction is not None
    source, path = stage.by(stage.contraction).source, GOLDEN / f"{name}_second_product.cu"
    if request.config.getoption("--update-golden"):
        path.write_text(source)
    assert source == path.read_text(), f"{path.name} differs; see git diff after --update-golden"
