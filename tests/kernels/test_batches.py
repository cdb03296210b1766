"""Batch axes: every reduction, its gradients, broadcasting of each argument, half precision, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from farfield_kernels import engine
from farfield_kernels.errors import ArgumentError, DtypeError, FarfieldError, LimitError, ShapeError
from farfield_kernels.expr import Array
from farfield_kernels.operation import Spec, read
from farfield_kernels.reductions import REDUCTIONS
from farfield_kernels.reference import reference
from kernels.batch_cases import BATCHES, Batch, drawn
from kernels.range_cases import FEW, FEW_BLOCKS, six_arrays
from kernels.reduction_checks import (
    VARIANT_IDS,
    VARIANTS,
    arguments_of_vjp,
    assert_results,
    check_gradient,
    forced_splits,
    spec_of,
)

pytestmark = pytest.mark.usefixtures("path")  # compiled, and on NumPy
NAMES = sorted(REDUCTIONS)
DIFFERENTIABLE = [name for name in NAMES if REDUCTIONS[name].gradient or REDUCTIONS[name].saving]
WRT = (0, 1, 2, 3)
SIZES = ((5, 7), (0, 7), (5, 0), (33, 70))


def computed(spec: Spec, arrays: list[Array], ranges: list[Array] | None = None) -> list[Array]:
    """The results on the CPU."""
    return engine.run(spec, arrays, device="cpu", ranges=ranges).arrays


@pytest.mark.parametrize(("axis", "dtype"), [(1, "float32"), (0, "float64")])
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=VARIANT_IDS)
def test_every_reduction_of_batches(name: str, options: dict[str, Any], axis: int, dtype: str) -> None:
    """Arguments of any axes or none, of size 0, 1 and more, whole and with the columns split."""
    spec = spec_of(name, axis, **options)
    tolerance = 2e-6 if dtype == "float32" else 1e-13
    for what, batches in BATCHES.items():
        for rows, cols in SIZES if what in ("crossed", "none") else SIZES[:1]:
            arrays = drawn(batches, rows, cols, dtype)
            expected = reference(read(spec), arrays)
            assert_results(computed(spec, arrays), expected, tolerance, f"{name}, {what}, {rows} x {cols}")
            with forced_splits(3):
                assert_results(computed(spec, arrays), expected, tolerance, f"{name}, {what}, split")


@pytest.mark.parametrize("name", NAMES)
def test_batches_where_both_axes_are_reduced(name: str) -> None:
    """axis=None gives one row per element of the batch, with and without ranges."""
    spec = spec_of(name, None)
    for what, batches in BATCHES.items():
        arrays = drawn(batches, *FEW)
        for ranges in (None, six_arrays(FEW_BLOCKS, FEW[1])):
            expected = reference(read(spec), arrays, ranges)
            assert_results(computed(spec, arrays, ranges), expected, 1e-13, f"{name}, {what}")


@pytest.mark.parametrize("name", NAMES)
def test_ranges_are_those_of_every_element(name: str) -> None:
    """One set of ranges holds for all elements of a batch, whose sizes may be 0 and 1."""
    spec = spec_of(name, 0)
    for what, batches in BATCHES.items():
        arrays, ranges = drawn(batches, *FEW), six_arrays(FEW_BLOCKS, FEW[1])
        expected = reference(read(spec), arrays, ranges)
        assert_results(computed(spec, arrays, ranges), expected, 1e-13, f"{name}, {what}")


@pytest.mark.parametrize("with_ranges", [False, True], ids=["whole", "ranges"])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_of_batches_are_derivatives(name: str, with_ranges: bool) -> None:
    """An argument that serves several elements gets the sum of their gradients; the oracle's differences agree."""
    rng = np.random.default_rng(3)
    rows, cols = FEW
    ranges = six_arrays(FEW_BLOCKS, cols) if with_ranges else None
    for what in ("each another", "p alone"):
        shapes = ((rows, 2), (cols, 2), (cols, 1), (2,))
        arrays = [
            rng.standard_normal((*batch, *shape)) for batch, shape in zip(BATCHES[what], shapes, strict=True)
        ]
        check_gradient(name, 1, arrays=arrays, ranges=ranges)


@pytest.mark.parametrize("name", ["Sum", "LogSumExp", "Max", "KMin", "SumSoftMaxWeight"])
def test_gradients_of_every_kind_of_batch_are_those_of_the_oracle(name: str) -> None:
    """Shapes are those of the arguments, whatever broadcasts; no elements give zeros."""
    spec = spec_of(name)
    for what, batches in BATCHES.items():
        arrays = drawn(batches, 5, 7)
        taken = arguments_of_vjp(spec, arrays)
        got = computed(spec.vjp(WRT), taken)
        assert [g.shape for g in got] == [array.shape for array in arrays], what
        assert_results(got, reference(read(spec.vjp(WRT)), taken), 1e-12, f"gradients of {name}, {what}")
        tangents = [*taken, *(np.ones_like(array) for array in arrays)]
        expected = reference(read(spec.jvp(WRT)), tangents)
        assert_results(computed(spec.jvp(WRT), tangents), expected, 1e-12, f"tangents of {name}, {what}")


def test_batches_that_cotangents_and_tangents_bring_in() -> None:
    """Without batches and with three cotangents the gradients are sums; three tangents give three derivatives."""
    spec = spec_of("Sum")
    arrays = drawn(((),) * 4, 5, 7)
    cotangents = np.random.default_rng(1).standard_normal((3, 5, 2))
    got = computed(spec.vjp(WRT), [*arrays, cotangents])
    parts = [computed(spec.vjp(WRT), [*arrays, e]) for e in cotangents]
    assert_results(got, [np.sum(part, 0) for part in zip(*parts, strict=True)], 1e-13, "cotangents")
    tangents = drawn(((3,), (1,), (), (3,)), 5, 7, seed=1)
    (along,) = computed(spec.jvp(WRT), [*arrays, cotangents, *tangents])
    one = [np.broadcast_to(t, (3, *a.shape)) for t, a in zip(tangents, arrays, strict=True)]
    each = [computed(spec.jvp(WRT), [*arrays, cotangents[0], *(t[k] for t in one)])[0] for k in range(3)]
    assert_results([along], [np.array(each)], 1e-13, "tangents")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["Sum", "Max_ArgMax", "KMin", "LogSumExp", "SumSoftMaxWeight"])
def test_half_precision_is_stored_and_not_computed_in(name: str, dtype: str) -> None:
    """With batches and ranges: the results are those of the oracle, rounded once; so are the gradients."""
    spec = spec_of(name)
    unit = 2.0**-10 if dtype == "float16" else 2.0**-7
    for ranges in (None, six_arrays(FEW_BLOCKS, FEW[1])):
        arrays = drawn(BATCHES["each another"], *FEW, dtype)
        got = computed(spec, arrays, ranges)
        assert [g.dtype.name for g in got] == ["int64" if g.dtype.kind == "i" else dtype for g in got]
        assert_results(_wide(got), reference(read(spec), arrays, ranges), unit, f"{name}, {dtype}")
        taken = arguments_of_vjp(spec, arrays, ranges)
        gradients = computed(spec.vjp(WRT), taken, ranges)
        assert [(g.dtype.name, g.shape) for g in gradients] == [(dtype, array.shape) for array in arrays]
        expected = reference(read(spec.vjp(WRT)), taken, ranges)
        assert_results(_wide(gradients), expected, unit, f"gradients of {name}, {dtype}")


def _wide(arrays: list[Array]) -> list[Array]:
    return [array if array.dtype.kind == "i" else array.astype(np.float64) for array in arrays]


def test_batches_of_any_layout_are_read() -> None:
    """Repeated without a copy, transposed, strided and read-only batches give what their copies give."""
    spec = spec_of("Sum")
    x, y, b, p = drawn(((4,), (), (4,), ()), 5, 7)
    (expected,) = computed(spec, [x, y, b, p])
    turned = np.ascontiguousarray(x.transpose(2, 0, 1)).transpose(1, 2, 0)
    strided = np.repeat(b, 2, 0)[::2]
    repeated = np.broadcast_to(y, (4, *y.shape))
    assert_results(computed(spec, [turned, repeated, strided, p]), [expected], 0, "layouts")


def test_a_batch_is_what_its_elements_are_one_by_one() -> None:
    """More elements than a call has blocks of rows: each is the call of its own."""
    spec = spec_of("LogSumExp")
    x, y, b, p = drawn(((300,), (300,), (), (1,)), 3, 4)
    (batched,) = computed(spec, [x, y, b, p])
    one_by_one = [computed(spec, [x[k], y[k], b, p[0]])[0] for k in range(300)]
    assert_results([batched], [np.array(one_by_one)], 1e-14, "300 elements")


X, Y, B, P = (5, 2), (7, 2), (7, 1), (2,)

# What is wrong -> the shapes of x, y, b, p, the class, words of the message, the field.
WRONG: dict[str, tuple[list[Batch], type[FarfieldError], str, str]] = {
    "two batches": ([(2, *X), (3, *Y), B, P], ShapeError, "argument 1 (y) has batch axes (3,)", "arguments[1]"),
    "of a parameter": ([(2, *X), Y, B, (3, *P)], ShapeError, "argument 3 (p) has batch axes (3,)", "arguments[3]"),
    "in a later axis": ([(2, 4, *X), (3, *Y), B, P], ShapeError, "do not broadcast with (2, 4)", "arguments[1]"),
    "0 and 2": ([(0, *X), (2, *Y), B, P], ShapeError, "(2,), which do not broadcast with (0,)", "arguments[1]"),
    "other rows": ([(2, *X), Y, (2, 8, 1), P], ShapeError, "(b) has 8 rows, but argument 1 (y)", "arguments[2]"),
    "one row": ([X, Y, (2, 1, 1), P], ShapeError, "(b) has 1 rows", "arguments[2]"),
    "a batch after": ([(5, 2, 3), Y, B, P], ShapeError, "argument 0 (x) has shape (5, 2, 3)", "arguments[0]"),
    "too many axes": ([(*(1,) * 17, *X), Y, B, P], ShapeError, "(x) has 17 batch axes", "arguments[0]"),
    "too many": ([(2**22, 1, 0, 2), (2, 7, 2), B, P], LimitError, "more than 4194304 elements", "arguments"),
    "a scalar": ([X, Y, B, ()], ShapeError, "argument 3 (p) has shape (), (2,) is needed", "arguments[3]"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_batches_are_refused(name: str) -> None:
    """Each row has its class, message and field; without batches the call is right."""
    shapes, kind, message, field = WRONG[name]
    with pytest.raises(FarfieldError) as caught:
        computed(spec_of("Sum"), [np.zeros(shape) for shape in shapes])
    assert (type(caught.value), caught.value.field) == (kind, field)
    assert message in str(caught.value)
    computed(spec_of("Sum"), [np.zeros(shape) for shape in (X, Y, B, P)])


def test_wrong_saved_results_and_outputs_of_batches_are_refused() -> None:
    """Indices and cotangents have batches that broadcast too, and `out` has all batch axes."""
    spec, arrays = spec_of("Max"), drawn(((2,), (), (), ()), 5, 7)
    taken = arguments_of_vjp(spec, arrays)
    for place, wrong, kind in (
        (4, np.zeros((3, 5, 2), np.int64), ShapeError),
        (4, np.zeros((2, 5, 2), np.int32), DtypeError),
        (5, np.zeros((3, 5, 2)), ShapeError),
        (5, np.zeros((2, 4, 2)), ShapeError),
    ):
        with pytest.raises(kind, match=rf"argument {place} \(result\)"):
            computed(spec.vjp(WRT), [*taken[:place], wrong, *taken[place + 1 :]])
    for out, kind in ((np.zeros((5, 2)), ShapeError), (np.zeros((2, 5, 2), "float32"), DtypeError)):
        with pytest.raises(kind, match=r"out\[0\]"):
            engine.run(spec, arrays, device="cpu", out=[out])
    with pytest.raises(ArgumentError, match="5 arguments are needed"):
        computed(spec_of("Sum").vjp(WRT), arrays)
