"""Whatever is passed by mistake gives a typed error, the same here as on a server, or works."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch

import farfield
from farfield.numpy import Genred
from farfield.torch import Genred as TorchGenred

VARIABLES = ["x = Vi(1)", "y = Vj(1)"]
X, Y = np.ones((3, 1)), np.ones((4, 1))


@pytest.mark.parametrize(
    "arguments",
    [
        (5, VARIABLES),
        (None, VARIABLES),
        (["x*y"], VARIABLES),
        ("x*y", "x = Vi(1)"),
        ("x*y", 5),
        ("x*y", ["x = Vi(1)", 5]),
        ("x*y", VARIABLES, 1.5),
        ("x*y", VARIABLES, "Sum", [1]),
        ("x*y", VARIABLES, "Sum", 1.0),
        ("x*y", VARIABLES, "Sum", True),
        ("x*y", VARIABLES, "Sum", 2),
    ],
    ids=str,
)
def test_words_of_the_wrong_kind_are_named(arguments: tuple[Any, ...]) -> None:
    """Neither a TypeError of Python's own nor an error that only a server would give."""
    with pytest.raises(farfield.FarfieldError):
        Genred(*arguments)


def test_numpy_integers_are_integers() -> None:
    """An axis and argument numbers that come out of an array are taken."""
    routine = Genred("x*y", VARIABLES, axis=np.int64(1))  # type: ignore[arg-type]
    assert routine.spec.axis == 1
    assert type(routine.spec.axis) is int
    (gradient,) = routine.vjp(np.ones((3, 1)), X, Y, wrt=np.array([1]))  # type: ignore[arg-type]
    np.testing.assert_array_equal(gradient, np.full((4, 1), 3.0))


@pytest.mark.parametrize("wrt", [1, ["x"], [1.0], [True], [7], []], ids=str)
def test_argument_numbers_of_the_wrong_kind_are_named(wrt: Any) -> None:
    """What is not a list of the arguments' numbers is an ArgumentError."""
    with pytest.raises(farfield.ArgumentError):
        Genred("x*y", VARIABLES, axis=1).vjp(np.ones((3, 1)), X, Y, wrt=wrt)


def test_a_cotangent_that_is_a_list_is_named() -> None:
    """Arrays are not made of lists in silence, as their type would be a guess."""
    with pytest.raises(farfield.ArgumentError, match="the cotangent is a list"):
        Genred("x*y", VARIABLES, axis=1).vjp([[1.0]] * 3, X, Y)  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout_s", ["10", None, 0, -1, float("nan"), True], ids=str)
def test_timeouts_of_the_wrong_kind_are_named(timeout_s: Any) -> None:
    """A number of seconds is needed."""
    with pytest.raises(farfield.ArgumentError, match="timeout_s"):
        farfield.connect("local:", timeout_s=timeout_s)


def test_tensors_without_dense_data_are_named() -> None:
    """Sparse and meta tensors; a dense one is the valid neighbour."""
    routine = TorchGenred("x*y", VARIABLES, axis=1)
    dense = torch.ones(3, 1)
    for tensors in ([dense.to_sparse(), dense], [dense.to("meta"), dense.to("meta")]):
        with pytest.raises(farfield.ArgumentError, match="a dense tensor is needed"):
            routine(*tensors)
    assert routine(dense, torch.ones(4, 1)).shape == (3, 1)


def test_a_routine_can_be_pickled() -> None:
    """The copy computes the same."""
    routine = Genred("x*y", VARIABLES, axis=1, dtype="float64")
    copy = pickle.loads(pickle.dumps(routine))
    assert (copy.spec, copy.dtype) == (routine.spec, "float64")
    np.testing.assert_array_equal(copy(X, Y), routine(X, Y))
