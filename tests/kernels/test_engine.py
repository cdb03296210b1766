"""Calls of the engine: layouts, types, sizes, `out`, threads, forks, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest

from farfield_kernels import engine, errors, launch
from farfield_kernels.engine import run
from farfield_kernels.errors import (
    ArgumentError,
    DeviceError,
    DtypeError,
    ShapeError,
    error_classes,
)
from farfield_kernels.execute import backend_for
from farfield_kernels.expr import Array
from farfield_kernels.operation import Spec, read
from farfield_kernels.reference import reference
from kernels.reduction_checks import assert_results

pytestmark = pytest.mark.usefixtures("path")  # compiled, and on NumPy

SEED = Spec("Square(p-a)*Exp(x+y)", ("x = Vi(3)", "y = Vj(3)", "a = Vj(1)", "p = Pm(1)"))


def seed_arrays(M: int = 20, N: int = 30, dtype: str = "float64") -> list[Array]:
    """Arguments of the seed formula."""
    rng = np.random.default_rng(0)
    return [rng.uniform(-1, 1, shape).astype(dtype) for shape in ((M, 3), (N, 3), (N, 1), (1,))]


def seed_result(arrays: list[Array]) -> Array:
    """The seed formula, dense."""
    x, y, a, p = (array.astype(np.float64) for array in arrays)
    return np.asarray(((p - a) ** 2 * np.exp(x[:, None] + y)).sum(1))


def computed(spec: Spec, arrays: list[Array]) -> list[Array]:
    """The results on the CPU."""
    return run(spec, arrays, device="cpu").arrays


# ---- the seed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_seed_forward_and_gradients(dtype: str) -> None:
    """c_i = sum_j (p - a_j)^2 exp(x_i + y_j) and its four gradients are those of the dense formula."""
    arrays = seed_arrays(100, 130, dtype)
    tolerance = 1e-6 if dtype == "float32" else 1e-14
    assert_results(computed(SEED, arrays), [seed_result(arrays)], tolerance, "forward")
    x, y, a, p = (array.astype(np.float64) for array in arrays)
    e = np.random.default_rng(1).standard_normal((100, 3)).astype(dtype)
    weight = e.astype(np.float64)[:, None] * np.exp(x[:, None] + y)
    by_x = ((p - a) ** 2 * weight).sum(1)
    by_y = ((p - a) ** 2 * weight).sum(0)
    by_a = (-2 * (p - a) * weight).sum((0, 2))[:, None]
    by_p = (2 * (p - a) * weight).sum((0, 1, 2), keepdims=True)[0, 0]
    got = computed(SEED.vjp((0, 1, 2, 3)), [*arrays, e])
    assert [g.dtype for g in got] == [np.dtype(dtype)] * 4
    assert_results(got, [by_x, by_y, by_a, by_p], tolerance, "gradients")


# ---- arrays --------------------------------------------------------------------------------------------------


def test_any_layout_and_byte_order_is_read() -> None:
    """Transposed, strided, reversed, repeated, read-only and big-endian arrays give what their copies give."""
    arrays = seed_arrays()
    expected = seed_result(arrays)
    x = arrays[0]
    wide = np.zeros((40, 6))
    wide[::2, ::2] = x
    read_only = x.copy()
    read_only.flags.writeable = False
    layouts = {
        "column-major": np.asfortranarray(x),
        "every second": wide[::2, ::2],
        "reversed": x[::-1].copy()[::-1],
        "big-endian": x.astype(">f8"),
        "read-only": read_only,
    }
    for what, layout in layouts.items():
        assert_results(computed(SEED, [layout, *arrays[1:]]), [expected], 1e-14, what)
    repeated = [np.broadcast_to(x[:1], (20, 3)), *arrays[1:]]
    assert_results(computed(SEED, repeated), [seed_result(repeated)], 1e-14, "repeated")


def test_arguments_are_left_as_they_were() -> None:
    """No argument is written to."""
    arrays = seed_arrays()
    copies = [array.copy() for array in arrays]
    computed(SEED.vjp((0, 1, 2, 3)), [*arrays, np.ones((20, 3))])
    assert all(np.array_equal(a, b) for a, b in zip(arrays, copies, strict=True))


@pytest.mark.parametrize(("M", "N"), [(0, 0), (0, 5), (5, 0), (1, 1)])
def test_empty_arrays_give_results_of_the_right_shape(M: int, N: int) -> None:
    """No rows, no columns or neither: sums are 0, shapes are right, forward and gradients."""
    arrays = seed_arrays(M, N)
    assert_results(computed(SEED, arrays), [seed_result(arrays)], 1e-14, "forward")
    e = np.ones((M, 3))
    operation = SEED.vjp((0, 1, 2, 3))
    assert_results(computed(operation, [*arrays, e]), reference(read(operation), [*arrays, e]), 1e-13, "gradients")


def test_out_is_written_and_returned() -> None:
    """The arrays given as `out` hold the results and are what comes back."""
    arrays = seed_arrays()
    out = np.full((20, 3), np.nan)
    assert run(SEED, arrays, device="cpu", out=[out]).arrays[0] is out
    assert_results([out], [seed_result(arrays)], 1e-14, "out")
    gradients = [np.full(array.shape, np.nan) for array in arrays]
    run(SEED.vjp((0, 1, 2, 3)), [*arrays, out], device="cpu", out=gradients)
    assert_results(gradients, computed(SEED.vjp((0, 1, 2, 3)), [*arrays, out]), 0, "gradients")


def test_an_out_that_does_not_fit_is_refused() -> None:
    """Number, type, shape and layout of `out` are checked before anything is computed."""
    read_only = np.zeros((20, 3))
    read_only.flags.writeable = False
    for out, kind, part in (
        ([], ArgumentError, "out takes 1 arrays, got 0"),
        ([np.zeros((20, 3), "float32")], DtypeError, r"out\[0\] is float32, float64 is needed"),
        ([np.zeros((20, 3), ">f8")], DtypeError, r"out\[0\] is >f8"),
        ([np.zeros((3, 20))], ShapeError, r"out\[0\] has shape \(3, 20\), \(20, 3\) is needed"),
        ([np.zeros((3, 20)).T], ArgumentError, r"out\[0\] must be C-contiguous and writeable"),
        ([read_only], ArgumentError, r"out\[0\] must be C-contiguous and writeable"),
    ):
        with pytest.raises(kind, match=part):
            run(SEED, seed_arrays(), device="cpu", out=out)


def test_arguments_that_are_no_float_arrays_are_refused() -> None:
    """Integers, booleans, complex numbers, half precision, mixtures, lists: an error that names the argument."""
    arrays = seed_arrays()
    for wrong, kind, part in (
        (arrays[0].astype("int64"), DtypeError, r"argument 0 \(x\) is int64: write \.float\(\)"),
        (arrays[0] > 0, DtypeError, r"argument 0 \(x\) is bool"),
        (arrays[0].astype(complex), DtypeError, r"argument 0 \(x\) is complex128"),
        (arrays[0].astype("float16"), DtypeError, r"argument 1 \(y\) is float64, but argument 0 \(x\) is float16"),
        (arrays[0].astype("float32"), DtypeError, r"argument 1 \(y\) is float64, but argument 0 \(x\) is float32"),
        (arrays[0].astype(object), DtypeError, r"argument 0 \(x\) is object"),
        (arrays[0].tolist(), ArgumentError, "argument 0 is a list, a NumPy array is needed"),
        (None, ArgumentError, "argument 0 is a NoneType"),
    ):
        with pytest.raises(kind, match=part):
            run(SEED, [wrong, *arrays[1:]], device="cpu")  # type: ignore[list-item]


def test_timing_says_where_the_time_went() -> None:
    """A second call of one spec spends its time in the kernel, not in compiling."""
    spec = Spec("Exp(x-y)*0.7531", ("x = Vi(1)", "y = Vj(1)"))
    arrays = [np.zeros((2000, 1)), np.zeros((2000, 1))]
    first, second = run(spec, arrays, device="cpu").timing, run(spec, arrays, device="cpu").timing
    assert first.compile_ms > second.compile_ms
    assert second.compile_ms < 5
    assert second.kernel_ms > 0


# ---- threads and processes -----------------------------------------------------------------------------------


def test_the_number_of_threads_does_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many rows give the same bits with 1, 2 and 5 threads; split columns the same numbers up to rounding."""
    monkeypatch.setattr(launch, "SMALLEST_SHARED_WORK", -1)
    for (M, N), exact in (((3000, 500), True), ((3, 60_000), False)):
        arrays = seed_arrays(M, N)
        results = []
        for threads in (1, 2, 5):
            monkeypatch.setattr(launch, "thread_count", lambda threads=threads: threads)
            engine._ready_without_ranges.cache_clear()
            results.append(computed(SEED, arrays)[0])
        for result in results[1:]:
            if exact:
                assert np.array_equal(result, results[0])
            else:
                assert_results([result], [results[0]], 1e-14, "split columns")


def test_the_number_of_threads_is_read_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """`FARFIELD_THREADS` is a number from 1; without it every core that the process may use."""
    launch.thread_count.cache_clear()
    try:
        monkeypatch.setenv("FARFIELD_THREADS", "3")
        assert launch.thread_count() == 3
        for wrong in ("0", "-1", "two", "1.5"):
            launch.thread_count.cache_clear()
            monkeypatch.setenv("FARFIELD_THREADS", wrong)
            with pytest.raises(DeviceError, match=f"FARFIELD_THREADS is '{wrong}', a number from 1 is needed"):
                launch.thread_count()
        monkeypatch.delenv("FARFIELD_THREADS")
        assert launch.thread_count() == len(os.sched_getaffinity(0))
    finally:
        launch.thread_count.cache_clear()


def test_concurrent_calls_are_right() -> None:
    """Eight threads with eight formulas and sizes, cold and warm, each get their own results."""
    failures: list[str] = []

    def call(k: int) -> None:
        spec = Spec(f"Exp(x*y*{k + 1}) + {k}", ("x = Vi(2)", "y = Vj(2)"))
        rng = np.random.default_rng(k)
        for turn in range(6):
            x, y = rng.uniform(-1, 1, (50 + 37 * k, 2)), rng.uniform(-1, 1, (200 + 11 * turn, 2))
            expected = (np.exp(x[:, None] * y * (k + 1)) + k).sum(1)
            (got,) = computed(spec, [x, y])
            if not np.allclose(got, expected, rtol=1e-12):
                failures.append(f"thread {k}, turn {turn}")

    threads = [threading.Thread(target=call, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


FORK = """
import os, threading
import numpy as np
from farfield_kernels.engine import run
from farfield_kernels.operation import Spec

spec = Spec("Exp(x+y)", ("x = Vi(1)", "y = Vj(1)"))
arrays = [np.linspace(0, 1, 3000)[:, None], np.linspace(0, 1, 3000)[:, None]]
expected = run(spec, arrays, device="cpu").arrays[0]  # starts the threads

stop = False
def busy():
    k = 0
    while not stop:
        k += 1
        Spec("x", ("x = Vi(1)",)); run(Spec(f"Exp(x+y)*{k % 3 + 1}", spec.variables), arrays, device="cpu")
worker = threading.Thread(target=busy, daemon=True)
worker.start()
for _ in range(5):
    child = os.fork()
    if child == 0:
        fresh = Spec("Exp(x+y)*7.25", spec.variables)
        ok = np.array_equal(run(spec, arrays, device="cpu").arrays[0], expected)
        ok &= np.allclose(run(fresh, arrays, device="cpu").arrays[0], 7.25 * expected)
        os._exit(0 if ok else 1)
    assert os.waitpid(child, 0)[1] == 0
stop = True
worker.join()
"""


def test_a_forked_child_computes() -> None:
    """Children forked while another thread computes do not hang; old and new formulas are right."""
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


# ---- errors --------------------------------------------------------------------------------------------------


def test_every_error_has_a_code_of_its_own() -> None:
    """The table from code to class finds every class of the tree, so none shadows another."""
    classes = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.FarfieldError)
    ]
    assert len({value.code for value in classes}) == len(classes) > 5
    assert all(error_classes()[value.code] is value for value in classes)


def test_a_call_is_planned_once() -> None:
    """Equal specs share their kernels."""
    call = engine.plan_call(SEED, "float32", "cpu")
    assert engine.plan_call(Spec(SEED.formula, SEED.variables), "float32", "cpu") is call


def test_a_call_that_was_made_before_is_checked_by_its_own_arrays() -> None:
    """Other shapes, types and layouts than those of the last call are seen: refused, converted, or computed."""
    x, y, a, p = arrays = [np.random.default_rng(0).random(shape) for shape in ((30, 3), (20, 3), (20, 1), (1,))]
    first = run(SEED, arrays, device="cpu").arrays[0]
    with pytest.raises(ShapeError, match="argument 2"):
        run(SEED, [x, y, a[:-1], p], device="cpu")
    with pytest.raises(DtypeError, match="argument 3"):
        run(SEED, [x, y, a, p.astype(np.float32)], device="cpu")
    frozen = x.copy()
    frozen.flags.writeable = False
    for same in (frozen, np.asfortranarray(x), x.astype(">f8"), np.repeat(x, 2, axis=0)[::2]):
        assert np.array_equal(run(SEED, [same, y, a, p], device="cpu").arrays[0], first)
    np.testing.assert_allclose(run(SEED, [x[:7], y, a, p], device="cpu").arrays[0], first[:7], rtol=1e-14)
    assert run(SEED, arrays, device="cpu").arrays[0] is not run(SEED, arrays, device="cpu").arrays[0]


def test_no_array_outlives_its_call() -> None:
    """What is kept for the next call of the same kind are types and shapes."""
    arrays = [np.ones(shape) for shape in ((30, 3), (20, 3), (20, 1), (1,))]
    held = [weakref.ref(array) for array in [*arrays, *run(SEED, arrays, device="cpu").arrays]]
    del arrays
    assert [reference() for reference in held] == [None] * 5


def test_tables_of_large_batches_are_not_kept() -> None:
    """A launch is kept for the next call of its kind with a small table of batch offsets, not with a large one."""
    engine._ready_without_ranges.cache_clear()
    for batch, is_kept in ((3, True), (1000, False)):
        spec = Spec("x+y", ("x = Vi(1)", "y = Vj(1)"))
        arrays = [np.zeros((batch, 2, 1), "float32"), np.ones((batch, 3, 1), "float32")]
        assert (run(spec, arrays, device="cpu").arrays[0] == 3).all()
        ready = engine._ready_without_ranges(
            spec,
            backend_for("cpu"),
            tuple(array.dtype for array in arrays),
            tuple(array.shape for array in arrays),
            False,
        )
        assert bool(ready.work.launches) == is_kept
