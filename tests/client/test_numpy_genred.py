"""Genred on NumPy arrays: values, gradients, and errors that name the argument."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import farfield
from farfield.errors import (
    ArgumentError,
    DtypeError,
    FarfieldError,
    FormulaError,
    ShapeError,
)
from farfield.numpy import Genred
from serving import Server, gaussian, gaussian_arrays

FORMULA, ALIASES = "Exp(-SqDist(x,y))*b", ["x = Vi(3)", "y = Vj(3)", "b = Vj(2)"]
SEED, SEED_ALIASES = "Square(p-a)*Exp(x+y)", ["x = Vi(3)", "y = Vj(3)", "a = Vj(1)", "p = Pm(1)"]


@pytest.fixture(autouse=True)
def embedded() -> Iterator[None]:
    """Calls are computed in this process unless a test says otherwise."""
    with farfield.connect("local:cpu"):
        yield


def routine(**more: Any) -> Genred:
    """The Gaussian of serving.GAUSSIAN."""
    return Genred(FORMULA, ALIASES, axis=1, **more)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-13)])
def test_the_sum_is_that_of_numpy(dtype: str, tolerance: float) -> None:
    """Value, type and shape of a Gaussian sum."""
    arrays = gaussian_arrays(dtype=dtype)
    result = routine()(*arrays)
    assert (result.dtype, result.shape) == (np.dtype(dtype), (7, 2))
    np.testing.assert_allclose(result, gaussian(*arrays), rtol=tolerance, atol=tolerance)


def test_axis_0_reduces_over_i() -> None:
    """The default axis, as in the field's other packages, gives one row per j."""
    x, y = gaussian_arrays()[:2]
    result = Genred("x*y", ["x = Vi(3)", "y = Vj(3)"])(x, y)
    np.testing.assert_allclose(result, x.sum(0) * y, rtol=1e-12)


def test_two_results_are_a_tuple() -> None:
    """Values and places of a maximum."""
    x, y = gaussian_arrays()[:2]
    values, places = Genred("x-y", ["x = Vi(3)", "y = Vj(3)"], "Max_ArgMax", axis=1)(x, y)
    terms = x[:, None] - y[None]
    np.testing.assert_array_equal(values, terms.max(1))
    np.testing.assert_array_equal(places, terms.argmax(1))
    assert places.dtype == np.int64


def test_strides_and_byte_order_do_not_matter() -> None:
    """Transposed, stepped, reversed, read-only, big-endian: all give what contiguous arrays give."""
    x, y, b = gaussian_arrays()
    expected = routine()(x, y, b)
    wide = np.repeat(x, 2, axis=0)
    frozen = y.copy()
    frozen.flags.writeable = False
    for arrays in (
        [np.asfortranarray(x), y, b],
        [wide[::2], y, b],
        [x[::-1][::-1], y, np.asfortranarray(b)],
        [x, frozen, b],
        [x.astype(">f8"), y, b],
    ):
        np.testing.assert_array_equal(routine()(*arrays), expected)
    row = np.broadcast_to(x[:1], x.shape)
    np.testing.assert_array_equal(routine()(row, y, b), np.broadcast_to(expected[:1], expected.shape))


@pytest.mark.parametrize(("M", "N"), [(0, 5), (7, 0), (0, 0)])
def test_no_rows_give_no_rows_and_no_columns_give_zero(M: int, N: int) -> None:
    """Empty axes have the right shapes, forward and backward."""
    arrays = gaussian_arrays(M=M, N=N)
    result = routine()(*arrays)
    np.testing.assert_array_equal(result, np.zeros((M, 2)))
    gradients = routine().vjp(np.ones((M, 2)), *arrays)
    assert [gradient.shape for gradient in gradients] == [array.shape for array in arrays]
    assert not any(gradient.any() for gradient in gradients)


def test_nan_and_infinity_are_those_of_numpy() -> None:
    """What is not finite in the data goes where NumPy takes it."""
    x = np.array([[1.0], [np.nan], [np.inf], [-np.inf]])
    y = np.array([[0.0], [2.0]])
    with np.errstate(all="ignore"):
        expected = np.exp(x + y.T).sum(1, keepdims=True)
    result = Genred("Exp(x+y)", ["x = Vi(1)", "y = Vj(1)"], axis=1)(x, y)
    np.testing.assert_allclose(result, expected, rtol=1e-14)
    bad = np.array([[0.0], [np.nan]])
    assert np.isnan(Genred("Exp(x+y)", ["x = Vi(1)", "y = Vj(1)"], axis=1)(x[:1], bad)).all()


def test_vjp_is_the_gradient() -> None:
    """All gradients of the seed's formula, and any subset in any order, against NumPy's own."""
    random = np.random.default_rng(0)
    x, y, a, p = (random.normal(size=shape) for shape in ((7, 3), (5, 3), (5, 1), (1,)))
    e = random.normal(size=(7, 3))
    kernel = np.exp(x[:, None] + y[None])
    weights = (p - a.T) ** 2
    expected = [
        e * np.einsum("ijd,j->id", kernel, weights[0]),
        np.einsum("id,ijd,j->jd", e, kernel, weights[0]),
        -2 * np.einsum("id,ijd,j->j", e, kernel, (p - a.T)[0])[:, None],
        2 * np.einsum("id,ijd,j->", e, kernel, (p - a.T)[0])[None],
    ]
    seed = Genred(SEED, SEED_ALIASES, axis=1)
    for wrt in (None, (0,), (3,), (2, 1), (3, 2, 1, 0)):
        found = seed.vjp(e, x, y, a, p, wrt=wrt)
        for place, gradient in zip(range(4) if wrt is None else wrt, found, strict=True):
            np.testing.assert_allclose(gradient, expected[place], rtol=1e-11)


def test_vjp_of_a_maximum_goes_to_its_place() -> None:
    """The cotangent arrives at the row that holds the maximum."""
    x, y = gaussian_arrays()[:2]
    e = np.arange(21.0).reshape(7, 3)
    [gradient] = Genred("x+y", ["x = Vi(3)", "y = Vj(3)"], "Max", axis=1).vjp(e, x, y, wrt=[1])
    expected = np.zeros_like(y)
    expected[y.argmax(0), np.arange(3)] = e.sum(0)
    np.testing.assert_allclose(gradient, expected)


def test_a_session_of_its_own_wins_over_the_default(server: Server) -> None:
    """Two routines, two places, one result; the timing is that of the place."""
    arrays = gaussian_arrays()
    far = routine(session=server.session())
    np.testing.assert_allclose(far(*arrays), routine()(*arrays), rtol=1e-14)
    assert "queue" in far.last_timing
    assert "queue" not in routine().last_timing
    far.session.close()


X, Y, B = (7, 3), (5, 3), (5, 2)

# Arguments that are wrong: shapes or arrays -> class, and words of the message.
WRONG_ARGUMENTS: dict[str, tuple[list[Any], type[FarfieldError], str]] = {
    "one too few": ([X, Y], ArgumentError, "3 arguments are needed"),
    "one too many": ([X, Y, B, B], ArgumentError, "3 arguments are needed"),
    "a list": ([X, Y, [[1.0, 2.0]] * 5], ArgumentError, "argument 2 is a list"),
    "None": ([X, None, B], ArgumentError, "argument 1 is a NoneType"),
    "a number": ([1.0, Y, B], ArgumentError, "argument 0 is a float"),
    "a wide x": ([(7, 4), Y, B], ShapeError, "argument 0 (x)"),
    "a narrow y": ([X, (5, 2), B], ShapeError, "argument 1 (y)"),
    "a flat b": ([X, Y, (5,)], ShapeError, "argument 2 (b)"),
    "two batches": ([(2, 7, 3), (3, 5, 3), B], ShapeError, "argument 1 (y) has batch axes (3,)"),
    "no axes": ([(), Y, B], ShapeError, "argument 0 (x)"),
    "other rows": ([X, Y, (6, 2)], ShapeError, "argument 2 (b) has 6 rows, but argument 1 (y) has 5"),
    "float32 among float64": ([X, Y, np.ones(B, "float32")], DtypeError, "argument 2 (b) is float32"),
    "integers": ([np.ones(X, int), Y, B], DtypeError, "argument 0 (x) is int64: write"),
    "truths": ([np.ones(X, bool), Y, B], DtypeError, "argument 0 (x) is bool: write"),
    "complex": ([np.ones(X, complex), Y, B], DtypeError, "argument 0 (x) is complex128"),
    "text": ([np.full(X, "a"), Y, B], DtypeError, "argument 0 (x) is str"),
    "objects": ([np.full(X, None), Y, B], DtypeError, "argument 0 (x) is object"),
    "float128": ([np.ones(X, "longdouble"), Y, B], DtypeError, "argument 0 (x) is float128"),
}


@pytest.mark.parametrize("name", WRONG_ARGUMENTS)
def test_wrong_arguments_are_named(name: str) -> None:
    """Each row has its class and names the argument; the right arguments beside it are computed."""
    given, kind, words = WRONG_ARGUMENTS[name]
    with pytest.raises(FarfieldError) as caught:
        routine()(*(np.ones(value) if isinstance(value, tuple) else value for value in given))
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert routine()(np.ones(X), np.ones(Y), np.ones(B)).shape == (7, 2)


def test_a_cotangent_that_does_not_fit_is_named() -> None:
    """Shape and type of the cotangent are those of the result."""
    arrays = gaussian_arrays()
    assert len(routine().vjp(np.ones((7, 2)), *arrays)) == 3
    for cotangent, kind in ((np.ones((7, 3)), ShapeError), (np.ones((7, 2), "float32"), DtypeError)):
        with pytest.raises(kind, match=r"argument 3 \(result\)"):
            routine().vjp(cotangent, *arrays)


# Words that are wrong: changes -> class, field, and the text under the caret.
WRONG_WORDS: dict[str, tuple[dict[str, Any], type[FarfieldError], str, str]] = {
    "an open parenthesis": ({"formula": "Exp(x"}, FormulaError, "formula", ""),
    "an unknown name": ({"formula": "Exp(x+z)*b"}, FormulaError, "formula", "z)*b"),
    "an unknown operator": ({"formula": "x*Epx(y)"}, FormulaError, "formula", "Epx(y)"),
    "dims that differ": ({"formula": "x+b"}, FormulaError, "formula", "+b"),
    "an unknown kind": ({"aliases": ["x = Vx(3)", *ALIASES[1:]]}, FormulaError, "variables[0]", "Vx(3)"),
    "a dim of zero": ({"aliases": ["x = Vi(0)", *ALIASES[1:]]}, FormulaError, "variables[0]", "0)"),
    "a name twice": ({"aliases": [*ALIASES[:2], "x = Vj(2)"]}, FormulaError, "variables[2]", ""),
    "an unknown reduction": ({"reduction_op": "Summ"}, FormulaError, "reduction", ""),
    "an axis of 2": ({"axis": 2}, FormulaError, "axis", ""),
    "aliases in one text": ({"aliases": "x = Vi(3)"}, FormulaError, "variables", ""),
    "aliases of None": ({"aliases": None}, FormulaError, "variables", ""),
    "dtype float128": ({"dtype": "float128"}, DtypeError, "dtype", ""),
    "dtype int64": ({"dtype": "int64"}, DtypeError, "dtype", ""),
}


@pytest.mark.parametrize("name", WRONG_WORDS)
def test_wrong_words_are_refused_when_the_routine_is_made(name: str) -> None:
    """Each row has its class and field, with a caret under the place where there is one."""
    changes, kind, field, place = WRONG_WORDS[name]
    words: dict[str, Any] = {"formula": FORMULA, "aliases": ALIASES, "axis": 1}
    Genred(**words)
    with pytest.raises(FarfieldError) as caught:
        Genred(**words | changes)
    assert (type(caught.value), caught.value.field) == (kind, field)
    if place:
        _, text, caret = str(caught.value).splitlines()
        assert text[caret.index("^") :] == place


def test_dtype_is_the_only_one_taken() -> None:
    """A Genred made for float32 refuses float64, and computes float32."""
    single = routine(dtype="float32")
    assert single(*gaussian_arrays(dtype="float32")).dtype == np.float32
    with pytest.raises(DtypeError, match="takes float32"):
        single(*gaussian_arrays())


def test_a_routine_shows_how_it_was_made() -> None:
    """Its repr can be read as the call that makes it."""
    made = routine()
    assert repr(made) == f"Genred({FORMULA!r}, {ALIASES}, 'Sum', axis=1)"
    assert repr(eval(repr(made))) == repr(made)
