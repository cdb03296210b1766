"""The words and arrays of a call: what is refused, with which message, and the valid neighbour that is not."""

from __future__ import annotations

import pytest

from farfield_kernels.arguments import Sizes, check_arguments, result_bytes
from farfield_kernels.errors import (
    ArgumentError,
    DtypeError,
    FarfieldError,
    FormulaError,
    LimitError,
    ShapeError,
)
from farfield_kernels.operation import Spec, read

SEED = Spec("Square(p-a)*Exp(x+y)", ("x = Vi(3)", "y = Vj(3)", "a = Vj(1)", "p = Pm(1)"))
RIGHT = [(5, 3), (7, 3), (7, 1), (1,)]
F32 = ["float32"] * 4

# dtypes, shapes, error, parts of the message, field.
WRONG_ARGUMENTS: tuple[tuple[list[str], list[tuple[int, ...]], type[FarfieldError], tuple[str, ...], str], ...] = (
    (F32[:3], RIGHT[:3], ArgumentError, ("4 arguments are needed (x, y, a, p), got 3",), "arguments"),
    (["float32"] * 5, [*RIGHT, (1,)], ArgumentError, ("4 arguments are needed", "got 5"), "arguments"),
    ([], [], ArgumentError, ("4 arguments are needed", "got 0"), "arguments"),
    (["int64", *F32[1:]], RIGHT, DtypeError, ("argument 0 (x) is int64", ".astype('float32')"), "arguments[0]"),
    ([*F32[:2], "bool", F32[3]], RIGHT, DtypeError,
     ("argument 2 (a) is bool", ".float()"), "arguments[2]"),
    (["complex64", *F32[1:]], RIGHT, DtypeError,
     ("is complex64; the types are float16, bfloat16, float32, float64",), "arguments[0]"),
    ([*F32[:3], "float64"], RIGHT, DtypeError,
     ("argument 3 (p) is float64", "argument 0 (x) is float32", "convert one"), "arguments[3]"),
    (["bfloat16", *F32[1:]], RIGHT, DtypeError,
     ("argument 1 (y) is float32, but argument 0 (x) is bfloat16",), "arguments[1]"),
    (["<U3", *F32[1:]], RIGHT, DtypeError, ("argument 0 (x) is <U3",), "arguments[0]"),
    (F32, [(5, 2), *RIGHT[1:]], ShapeError,
     ("argument 0 (x) has shape (5, 2), (M, 3) is needed",), "arguments[0]"),
    (F32, [(3,), *RIGHT[1:]], ShapeError,
     ("argument 0 (x) has shape (3,), (M, 3) is needed",), "arguments[0]"),
    (F32, [(2, 5, 3), (3, 7, 3), *RIGHT[2:]], ShapeError,
     ("argument 1 (y) has batch axes (3,), which do not broadcast with (2,)",), "arguments[1]"),
    (F32, [(*(1,) * 17, 5, 3), *RIGHT[1:]], ShapeError, ("argument 0 (x) has 17 batch axes",), "arguments[0]"),
    (F32, [(9_000_000, 0, 3), *RIGHT[1:]], LimitError, ("more than 4194304 elements",), "arguments"),
    (F32, [(5, 3), (7, 3), (8, 1), (1,)], ShapeError,
     ("argument 2 (a) has 8 rows, but argument 1 (y) has 7",), "arguments[2]"),
    (F32, [(5, 3), (7, 3), (1, 1), (1,)], ShapeError, ("argument 2 (a) has 1 rows",), "arguments[2]"),
    (F32, [*RIGHT[:3], (2,)], ShapeError, ("argument 3 (p) has shape (2,), (1,) is needed",), "arguments[3]"),
    (F32, [*RIGHT[:3], (1, 2)], ShapeError, ("argument 3 (p) has shape (1, 2), (1,) is needed",), "arguments[3]"),
    (F32, [*RIGHT[:3], ()], ShapeError, ("argument 3 (p) has shape (), (1,) is needed",), "arguments[3]"),
)  # fmt: skip


def test_right_arguments_give_their_type_and_sizes() -> None:
    """The valid neighbours of the wrong calls: both types, no rows, no columns, missing axes."""
    assert check_arguments(read(SEED), F32, RIGHT) == Sizes("float32", 5, 7, (), ((),) * 4)
    assert check_arguments(read(SEED), ["float64"] * 4, RIGHT) == Sizes("float64", 5, 7, (), ((),) * 4)
    assert check_arguments(read(SEED), F32, [(0, 3), (0, 3), (0, 1), (1,)]) == Sizes(
        "float32", 0, 0, (), ((),) * 4
    )
    only_j = read(Spec("y", ("y = Vj(3)",)))
    assert check_arguments(only_j, ["float32"], [(9, 3)]) == Sizes("float32", 1, 9, (), ((),))
    batched = check_arguments(read(SEED), F32, [(2, 1, 5, 3), (7, 3), (4, 7, 1), (1, 1)])
    assert batched == Sizes("float32", 5, 7, (2, 4), ((2, 1), (), (4,), (1,)))
    assert batched.pairs == 2 * 4 * 5 * 7


def test_wrong_arguments_name_the_argument_and_the_values() -> None:
    """Each wrong call raises its class with a message that names the argument, what it is and what is needed."""
    for dtypes, shapes, kind, parts, field in WRONG_ARGUMENTS:
        with pytest.raises(kind) as caught:
            check_arguments(read(SEED), dtypes, shapes)
        assert all(part in caught.value.message for part in parts), caught.value.message
        assert caught.value.field == field


def test_a_vjp_takes_saved_results_and_cotangents() -> None:
    """Arguments of a vjp are those of the call, its saved results, a cotangent per result that is no index."""
    spec = Spec("x*y", ("x = Vi(2)", "y = Vj(2)"), "Max")
    vjp = read(spec.vjp((0, 1)))
    assert [(slot.axis, slot.dim, slot.is_index) for slot in vjp.arguments] == [
        ("i", 2, False), ("j", 2, False), ("i", 2, True), ("i", 2, False),
    ]  # fmt: skip
    shapes = [(4, 2), (5, 2), (4, 2), (4, 2)]
    assert check_arguments(vjp, ["float32", "float32", "int64", "float32"], shapes) == Sizes(
        "float32", 4, 5, (), ((),) * 4
    )
    with pytest.raises(DtypeError, match=r"argument 2 \(result\) holds indices: int64 is needed, got float32"):
        check_arguments(vjp, ["float32"] * 4, shapes)
    with pytest.raises(ShapeError, match=r"argument 3 \(result\) has 5 rows, but argument 0 \(x\) has 4"):
        check_arguments(vjp, ["float32", "float32", "int64", "float32"], [*shapes[:3], (5, 2)])


def test_wrong_requests_for_gradients() -> None:
    """`wrt` holds distinct arguments that exist and are no indices; the order is bounded."""
    read(SEED.vjp((0, 3)).vjp((4,)).vjp((0,)).vjp((1,)))
    for wrt, part in (
        ((), "at least one"),
        ((0, 0), "each argument once"),
        ((4,), r"wrt 4 is not one of 0\.\.3"),
        ((-1,), r"wrt -1 is not one of 0\.\.3"),
    ):
        with pytest.raises(ArgumentError, match=part) as caught:
            read(SEED.vjp(wrt))
        assert caught.value.field == "wrt"
    with pytest.raises(ArgumentError, match="order 5 is above 4"):
        read(SEED.vjp((0,)).vjp((0,)).vjp((0,)).vjp((0,)).vjp((0,)))
    with pytest.raises(ArgumentError, match="argument 2 holds indices and has no gradient"):
        read(Spec("x*y", ("x = Vi(1)", "y = Vj(1)"), "Max").vjp((0,)).vjp((2,)))
    with pytest.raises(ArgumentError, match="the results of ArgMax have no gradient"):
        read(Spec("x*y", ("x = Vi(1)", "y = Vj(1)"), "ArgMax").vjp((0,)))


def test_a_spec_is_read_once_and_its_errors_are_not_kept() -> None:
    """Equal specs share one operation; a wrong one fails every time."""
    assert read(SEED) is read(Spec(SEED.formula, SEED.variables))
    for _ in range(2):
        with pytest.raises(FormulaError):
            read(Spec("x +", SEED.variables))


def test_result_bytes_are_those_of_the_arrays() -> None:
    """Sizes are Python integers and do not overflow."""
    operation = read(Spec("x*y", ("x = Vi(3)", "y = Vj(3)"), "Max_ArgMax"))
    assert result_bytes(operation, Sizes("float32", 10, 20)) == [120, 240]
    assert result_bytes(operation, Sizes("float64", 10**18, 1)) == [24 * 10**18] * 2
