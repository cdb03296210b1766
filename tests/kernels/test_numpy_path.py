"""Calls without a compiler: when NumPy computes, what is said about it, and what is its own.

That its results are right is tested with those of compiled kernels, by all tests that take the fixture `path`.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from farfield_kernels import blocks, build, engine, execute, functions_numpy, host_device, tape, texts
from farfield_kernels.errors import BuildError, CompilerMissingWarning
from farfield_kernels.explain import explain
from farfield_kernels.expr import Array
from farfield_kernels.operation import Spec, read
from farfield_kernels.reductions import REDUCTIONS, Reduction, State, Tile
from farfield_kernels.reference import reference
from farfield_kernels.stages import plan_call
from kernels.operator_checks import forget_compiled_formulas
from kernels.reduction_checks import (
    WEIGHTS,
    assert_results,
    check_compensation,
    check_reduction,
    check_special_terms,
    forced_splits,
    spec_of,
)

GAUSS = Spec("Exp(-SqDist(x,y))*b", ("x = Vi(3)", "y = Vj(3)", "b = Vj(1)"), separation="off")
INF, NAN = np.inf, np.nan


def gauss_arrays(M: int = 20, N: int = 30, dtype: str = "float64") -> list[Array]:
    """Its arguments."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(dtype) for shape in ((M, 3), (N, 3), (N, 1))]


# ---- the choice ----------------------------------------------------------------------------------------------


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A process that finds none and has not said so yet."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("FARFIELD_CPU", "FARFIELD_CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(build, "_has_warned", False)


NEW_PROCESS = """
import os, sys, warnings
os.environ["PATH"] = sys.argv[1]
import numpy as np
from farfield.numpy import Genred
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for formula in ("Exp(-SqDist(x,y))*b", "(x|y)*b"):
        routine = Genred(formula, ["x = Vi(3)", "y = Vj(3)", "b = Vj(1)"], axis=1)
        x, y, b = np.random.rand(5, 3), np.random.rand(7, 3), np.random.rand(7, 1)
        c = routine(x, y, b)
        (g,) = routine.vjp(np.ones_like(c), x, y, b, wrt=[2])
        d = ((x[:, None] - y) ** 2).sum(-1)
        K = np.exp(-d) if formula[0] == "E" else x @ y.T
        assert np.allclose(c, K @ b, rtol=1e-13) and np.allclose(g[:, 0], K.sum(0), rtol=1e-13)
for warning in caught:
    print(warning.category.__name__, warning.message)
"""


def test_without_a_compiler_numpy_computes_and_says_so_once(tmp_path: Path) -> None:
    """A new process with nothing on its path: right results, one warning, which names package and setting."""
    done = subprocess.run(
        [sys.executable, "-c", NEW_PROCESS, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("CompilerMissingWarning no C++ compiler was found (looked for g++, clang++, c++)")
    for words in ("the results are the same", "apt install g++", "xcode-select --install", "FARFIELD_CPU=numpy"):
        assert words in line


@pytest.mark.usefixtures("no_compiler")
def test_the_warning_is_given_once_per_process() -> None:
    """The first call warns at the line that made it; the second one does not."""
    with pytest.warns(CompilerMissingWarning, match="apt install g") as caught:
        (first,) = engine.run(GAUSS, gauss_arrays(), device="cpu").arrays
    assert [warning.filename for warning in caught] == [__file__]
    (second,) = engine.run(GAUSS, gauss_arrays(), device="cpu").arrays  # a warning would be an error
    assert np.array_equal(first, second)


def test_numpy_can_be_asked_for(no_compiler: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """`FARFIELD_CPU=numpy` says nothing, with and without a compiler."""
    monkeypatch.setenv("FARFIELD_CPU", "numpy")
    expected = reference(read(GAUSS), gauss_arrays())
    assert_results(engine.run(GAUSS, gauss_arrays(), device="cpu").arrays, expected, 1e-14, "no compiler")
    monkeypatch.undo()
    monkeypatch.setenv("FARFIELD_CPU", "numpy")
    assert isinstance(execute.backend_for("cpu"), host_device.Numpy)


def test_compiled_kernels_can_be_asked_for(no_compiler: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """`FARFIELD_CPU=compiled` makes the missing compiler an error, which names the package."""
    monkeypatch.setenv("FARFIELD_CPU", "compiled")
    with pytest.raises(BuildError, match=r"no C\+\+ compiler was found .*apt install g\+\+"):
        engine.run(Spec("x * y * 0.125", ("x = Vi(1)", "y = Vj(1)")), [np.ones((1, 1))] * 2, device="cpu")


def test_other_words_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error lists what `FARFIELD_CPU` may be."""
    monkeypatch.setenv("FARFIELD_CPU", "fast")
    with pytest.raises(BuildError, match="FARFIELD_CPU is 'fast', it is one of auto, compiled, numpy"):
        engine.run(GAUSS, gauss_arrays(), device="cpu")
    monkeypatch.setenv("FARFIELD_CPU", "")  # as if not set
    engine.run(GAUSS, gauss_arrays(), device="cpu")


def test_a_compiler_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """NumPy stands in for a compiler that is missing, not for one that is broken; once it works, calls compute."""
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    compiler.chmod(0o755)
    monkeypatch.delenv("FARFIELD_CPU", raising=False)
    monkeypatch.setenv("FARFIELD_CXX", str(compiler))
    spec = Spec("x * y * 0.375", ("x = Vi(1)", "y = Vj(1)"))
    with pytest.raises(BuildError, match="ended with 3: broken"):
        engine.run(spec, [np.ones((1, 1))] * 2, device="cpu")
    monkeypatch.delenv("FARFIELD_CXX")
    assert engine.run(spec, [np.ones((1, 1))] * 2, device="cpu").arrays[0].tolist() == [[0.375]]


def test_explain_says_what_runs(no_compiler: None) -> None:
    """One line says that NumPy runs in place of the C++ that is shown, and why."""
    line, *rest = explain(GAUSS).splitlines()
    assert line == (
        "On this machine the kernels below run on NumPy, not as C++: "
        "no C++ compiler was found (looked for g++, clang++, c++)"
    )
    assert explain(GAUSS, device="cuda").startswith("Arguments")
    assert rest[1] == "Arguments"


# ---- what is its own -----------------------------------------------------------------------------------------


@pytest.fixture
def on_numpy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Calls run on NumPy."""
    monkeypatch.setenv("FARFIELD_CPU", "numpy")
    forget_compiled_formulas()
    yield
    forget_compiled_formulas()


@pytest.mark.usefixtures("on_numpy")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("width", [1, 3, 16])
def test_products_of_matrices_pass_on_nan(width: int, dtype: str) -> None:
    """Sums and scalar products that BLAS computes have NaN where 0 meets infinity, and where NaN meets 0."""
    variables = (f"x = Vi({width})", f"y = Vj({width})", f"b = Vj({width})")
    rng = np.random.default_rng(0)
    x, y, b = (rng.standard_normal((rows, width)).astype(dtype) for rows in (33, 70, 70))
    x[3, 0], x[5, 0], x[7, 0] = NAN, INF, 0
    y[11, 0], y[12, 0], y[13, -1] = 0, INF, NAN
    for formula in ("(x|y)*b", "Exp(-SqDist(x,y))*b"):
        for value in (0.0, INF, NAN):
            b[20] = value
            spec = Spec(formula, variables)
            with np.errstate(all="ignore"):
                K = (x[:, None] * y).sum(-1) if formula[0] == "(" else np.exp(-((x[:, None] - y) ** 2).sum(-1))
                expected = (K.astype(np.float64)[..., None] * b).sum(1)
            (got,) = engine.run(spec, [x, y, b], device="cpu").arrays
            tolerance = 1e-5 if dtype == "float32" else 1e-13
            assert_results([got], [expected], tolerance, f"{formula} with {value}")


@pytest.mark.parametrize(
    "shape", [(1, 5, 1), (0, 5, 7), (3, 0, 2), (8, 8, 8), (70, 600, 65), (9, 9000, 20), (130, 40, 520)]
)
def test_products_in_parts_are_whole(shape: tuple[int, int, int]) -> None:
    """Matrices of any size and layout, with and without a place for the result."""
    rows, inner, cols = shape
    rng = np.random.default_rng(0)
    a, b = rng.integers(-9, 10, (rows, inner)) * 1.0, rng.integers(-9, 10, (inner, cols)) * 1.0
    expected = a @ b
    assert np.array_equal(functions_numpy.product(a, b), expected)
    out = np.empty((cols, rows)).T
    assert functions_numpy.product(np.asfortranarray(a), np.asfortranarray(b), out=out) is out
    assert np.array_equal(out, expected)


def test_long_sums_of_products_are_exact_to_the_last_digits() -> None:
    """100,000 float32 products of one sign: parts are summed in float64."""
    rng = np.random.default_rng(0)
    a, b = rng.random((3, 100_000), np.float32), rng.random((2, 100_000), np.float32)
    expected = a.astype(float) @ b.T
    tile = Tile(a, np.arange(100_000), np.broadcast_to(b[:, None], (2, 3, 100_000)))
    for got in (functions_numpy.sums_of_products(a, b.T), tile.weighted(a)):
        assert np.abs(got / expected - 1).max() < 2e-7


def test_choices_by_bits_are_those_of_numpy() -> None:
    """NaN, infinities and zeros of either sign come through, from blocks, rows, columns and numbers."""
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        block = rng.choice(np.array([NAN, INF, -INF, 0.0, -0.0, 1.5], dtype), (5, 9))
        test = rng.random((5, 9)) < 0.5
        for a, b in ((block, -block), (block[:, :1], block[:1]), (dtype(2), block), (block, dtype(-0.0))):
            out = np.empty_like(block)
            functions_numpy.choose(test, a, b, out=out)
            expected = np.where(test, a, b)
            assert np.array_equal(out, expected, equal_nan=True)
            assert np.array_equal(np.signbit(out), np.signbit(expected))


@pytest.mark.usefixtures("on_numpy")
def test_memory_does_not_grow_with_the_pairs() -> None:
    """5000 x 6000 pairs would be 240 MB; a call takes less than 24 MB, a wide one and a weighted one too."""
    rng = np.random.default_rng(0)
    variables = ("x = Vi(20)", "y = Vj(20)", "b = Vj(5)")
    arrays = [rng.standard_normal((rows, width)) for rows, width in ((5000, 20), (6000, 20), (6000, 5))]
    for spec in (
        Spec("Exp(-SqDist(x,y))*b", variables),
        Spec("x|y", variables, "SumSoftMaxWeight", formula2="b"),
        Spec("x*y", variables[:2], "Max"),
        Spec("SqDist(x,y)", variables[:2], "KMin", opt_arg=5),
    ):
        taken = arrays[: len(spec.variables)]
        expected = reference(read(spec), [taken[0][:5], *taken[1:]])
        tracemalloc.start()
        got = engine.run(spec, taken, device="cpu").arrays
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert_results([got[0][:5]], expected, 1e-12, spec.formula)
        assert peak < 24e6, f"{spec.formula}, {spec.reduction}: {peak / 1e6:.1f} MB"


@pytest.mark.usefixtures("on_numpy")
def test_blocks_are_used_again() -> None:
    """A distance in 30 dims is summed in 2 blocks, and 16 products of one kernel need no more."""
    for formula, slots in (
        ("SqDist(x,y)", 2),
        ("Exp(-SqDist(x,y))*b", 2),
        ("x|y", 1),
        ("Sqrt(Sqrt(Exp(x|y)))", 1),
    ):
        spec = Spec(formula, ("x = Vi(30)", "y = Vj(30)", "b = Vj(16)")[: 3 if "b" in formula else 2])
        program = plan_call(spec, "float32", "cpu").stages[0].program
        assert len(tape.write(program, "float32").slots) == slots, formula


def test_a_program_of_many_blocks_has_smaller_ones() -> None:
    """All that are live at once fit the cache, or hold one tile of columns for one row."""
    variables = ("x = Vi(12)", "y = Vj(12)")
    kernels = [
        blocks.NumpyKernel(*plan_call(Spec(formula, variables), "float64", "cpu").stages[0].emitted.parts)
        for formula in ("SqDist(x,y)", "Sum(Softmax(x-y))")
    ]
    few, many = (kernel.numbers for kernel in kernels)
    assert few == blocks.NUMBERS
    assert many * kernels[1].pair_bytes <= blocks.CACHE_BYTES
    assert blocks.COLUMNS <= many < few


@pytest.mark.usefixtures("on_numpy")
def test_threads_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of rows do not depend on which thread computes them."""
    monkeypatch.setattr(blocks, "SMALLEST_SHARED_WORK", -1)
    arrays = gauss_arrays(3000, 500, "float32")
    results = []
    for threads in (2, 3, 2):
        monkeypatch.setattr(blocks, "thread_count", lambda threads=threads: threads)
        results.append(engine.run(GAUSS, arrays, device="cpu").arrays[0])
    assert np.array_equal(results[0], results[2])
    assert_results(results[1:2], results[:1], 1e-6, "three threads")


@pytest.mark.usefixtures("on_numpy")
def test_what_a_thread_raises_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the second of two threads ends both and the call, and the next call is right."""
    both, threads, after = threading.Barrier(2, timeout=30), set(), []
    fold = REDUCTIONS["Max"].fold

    def fail(state: State, tile: Tile) -> State:
        name = threading.current_thread().name
        if name not in threads:
            threads.add(name)
            both.wait()
            if name.endswith("_1"):
                raise MemoryError("no room")
        after.append(name)
        return fold(state, tile)

    arrays = gauss_arrays(3000, 500)
    spec = replace(GAUSS, formula="SqDist(x,y)*Sqrt(b*b)", reduction="Max")
    with monkeypatch.context() as patch, forced_splits(2):
        patch.setitem(REDUCTIONS, "Max", replace(REDUCTIONS["Max"], fold=fail))
        forget_compiled_formulas()
        with pytest.raises(MemoryError, match="no room"):
            engine.run(spec, arrays, device="cpu")
    assert len(after) < 500  # of 750
    forget_compiled_formulas()
    assert_results(engine.run(spec, arrays, device="cpu").arrays, reference(read(spec), arrays), 1e-13, "after")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 - 2 - 3", -4.0),
        ("2 + 3 * 4 / 6 - -1", 5.0),
        ("a < b ? b < a ? 1 : 2 : 3", 2.0),
        ("b < a ? 1 : a < b ? 2 : 3", 2.0),
        ("(a < b) & (b < a) | (a == a) ? 4 : 5", 4.0),
        ("b < a || a != b && a <= b ? 6 : 7", 6.0),
        ("-$s[q + 1] * K(1e-1) + KI(2)", 1.5),
        ("fabs(-pow(b, 2))", 9.0),
    ],
)
def test_texts_mean_what_they_mean_in_c(text: str, value: float) -> None:
    """Precedence, association, choices, entries of a field, calls."""
    names = {"a": 2.0, "b": 3.0, "s": np.array([[1.0, 5.0]]), "q": 0}
    assert np.allclose(texts.evaluate(texts.parse(text), names), value)


@pytest.mark.parametrize("text", ["1 +* 2", "(1", "1 2", "a ? 1", "x = 2", "!a", "f(1"])
def test_texts_that_are_no_expressions_are_refused(text: str) -> None:
    """A declaration with a statement, or with a sign that the reader does not know, does not get far."""
    with pytest.raises(ValueError, match=r"operand|missing|left over|no C expression"):
        texts.parse(text)


# ---- folds broken on purpose ---------------------------------------------------------------------------------


def values(name: str, **options: Any) -> None:
    """The reduction check at a few sizes, in one tile and in several."""
    check_reduction(name, "float64", 1, [(3, 0), (3, 7), (9, 600)], **options)


def saved(name: str) -> None:
    """That check of what is saved for gradients."""
    values(name, saving=True)


def zeros(name: str) -> None:
    """That check with terms that are 0."""
    values(name, saving=True, formula="Sign((x - y) * b)")


def compensated(name: str) -> None:
    """In float64, what is below the last digit of a sum is kept, whether it is in the same tile or in another."""
    x, y = np.zeros((2, 1)), np.full((3000, 1), 2.0**-60)
    y[::600] = 1
    spec = Spec("y", ("x = Vi(1)", "y = Vj(1)"), sum_scheme="kahan_scheme")
    for tile in (256, 4096):
        with (
            forced_splits(2),
            mock.patch.object(blocks, "NUMBERS", 8 * tile),
            mock.patch.object(blocks, "COLUMNS", tile),
        ):
            (got,) = engine.run(spec, [x, y], device="cpu").arrays
        assert got[0, 0] == 5 + 2995 * 2.0**-60, f"{got[0, 0] - 5:.3e} above 5, {2995 * 2.0**-60:.3e} expected"


def weighted(name: str) -> None:
    """That check with weights."""
    values(name, formula2=WEIGHTS)


def special(name: str) -> None:
    """The check of infinities and NaN."""
    check_special_terms(name, "float64")


def ignoring(name: str) -> None:
    """That check where NaN is passed over."""
    check_special_terms(name, "float64", nan_policy="ignore")


Fold = Callable[[Reduction], Any]


def forgets(place: int) -> Fold:
    """A fold that begins anew with every tile, in one field of the state."""

    def change(reduction: Reduction) -> Any:
        identity = {"K(0)": 0.0, "K(1)": 1.0, "K(-INF)": -INF, "K(INF)": INF, "KI(0)": 0, "KI(-1)": -1}

        def fold(state: State, tile: Tile) -> State:
            before = list(state)
            before[place] = np.full_like(state[place], identity[reduction.state[place].identity])
            return reduction.fold(tuple(before), tile)

        return fold

    return change


def on_terms(changed: Callable[[Array], Array]) -> Fold:
    """A fold that sees other terms."""
    return lambda reduction: lambda state, tile: reduction.fold(state, replace(tile, terms=changed(tile.terms)))


def on_columns(changed: Callable[[Array], Array]) -> Fold:
    """A fold that numbers columns otherwise."""
    return lambda reduction: (
        lambda state, tile: reduction.fold(state, replace(tile, columns=changed(tile.columns)))
    )


def unweighted(reduction: Reduction) -> Any:
    """A fold that takes all weights for 1."""

    def fold(state: State, tile: Tile) -> State:
        assert tile.weights is not None
        return reduction.fold(state, replace(tile, weights=np.ones_like(tile.weights)))

    return fold


def later_on_ties(reduction: Reduction) -> Any:
    """A fold that meets the columns of a tile from the last one on."""
    return lambda state, tile: reduction.fold(
        state, replace(tile, terms=tile.terms[:, ::-1], columns=tile.columns[::-1])
    )


LAST_LOST, SHIFTED = on_terms(lambda terms: terms[:, :-1]), on_columns(lambda columns: columns + 1)
NUMBERS = on_terms(lambda terms: np.where(np.isnan(terms), 0.0, terms))

# Reduction, the variant whose fold is broken, how, the check that must fail.
BROKEN: tuple[tuple[str, str, Fold, Callable[[str], None]], ...] = (
    ("Sum", "", forgets(0), values),
    ("Sum", "", LAST_LOST, values),
    ("Sum", "compensated", forgets(0), check_compensation),
    ("Sum", "compensated", forgets(1), compensated),
    ("Mean", "", forgets(0), values),
    ("Var", "", forgets(0), values),
    ("Var", "", forgets(1), values),
    ("Std", "", forgets(2), values),
    ("Prod", "", forgets(0), values),
    ("Prod", "saving", forgets(1), zeros),
    ("Count", "", forgets(0), values),
    ("Any", "", NUMBERS, special),
    ("All", "", forgets(0), values),
    ("Max", "", forgets(0), values),
    ("Max", "", NUMBERS, special),
    ("Max", "ignoring", NUMBERS, ignoring),
    ("Min", "", on_terms(lambda terms: -terms), values),
    ("ArgMax", "", SHIFTED, values),
    ("ArgMax", "", later_on_ties, values),
    ("ArgMin", "", forgets(0), values),
    ("Min_ArgMin", "", forgets(1), values),
    ("KMin", "", forgets(0), values),
    ("KMax", "", NUMBERS, special),
    ("ArgKMin", "", later_on_ties, values),
    ("ArgKMax", "", SHIFTED, values),
    ("KMin", "ignoring", NUMBERS, ignoring),
    ("LogSumExp", "", forgets(0), values),
    ("LogSumExp", "", forgets(1), values),
    ("LogSumExp", "weighted", unweighted, weighted),
    ("SumSoftMaxWeight", "", unweighted, values),
    ("SumSoftMaxWeight", "", forgets(1), values),
    ("Max_SumShiftExp", "saving", SHIFTED, saved),
    ("Max_SumShiftExp", "saving", forgets(2), saved),
    ("Max_SumShiftExpWeight", "", forgets(0), values),
)  # fmt: skip


@pytest.mark.usefixtures("on_numpy")
@pytest.mark.parametrize(
    "row", range(len(BROKEN)), ids=[f"{name} {variant} {k}" for k, (name, variant, *_) in enumerate(BROKEN)]
)
def test_a_broken_fold_is_noticed(row: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check passes for the declaration and fails for the broken one."""
    name, variant, change, check = BROKEN[row]
    check(name)
    declared = REDUCTIONS[name]
    inner = getattr(declared, variant) if variant else declared
    broken = replace(inner, fold=change(inner))
    monkeypatch.setitem(REDUCTIONS, name, replace(declared, **{variant: broken}) if variant else broken)
    forget_compiled_formulas()
    with pytest.raises(AssertionError):
        check(name)


def test_weights_of_pairs_and_of_columns_are_both_taken() -> None:
    """Which of them a program has decides between a product of matrices and a sum over both."""
    spec = spec_of("SumSoftMaxWeight")
    assert not tape.write(plan_call(spec, "float64", "cpu").stages[0].program, "float64").is_together
    spec = Spec("x|y", ("x = Vi(2)", "y = Vj(2)"), "SumSoftMaxWeight", formula2="y")
    assert tape.write(plan_call(spec, "float64", "cpu").stages[0].program, "float64").is_together
