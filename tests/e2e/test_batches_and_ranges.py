"""Batches and block-sparse ranges through Genred, in process and over HTTP, against dense torch; bad input too."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import numpy as np
import pytest
import torch

import farfield
from farfield.errors import ArgumentError, DtypeError, FarfieldError, ShapeError
from farfield.numpy import Genred as NumpyGenred
from farfield.torch import Genred
from farfield.wire import encode_call
from farfield_kernels.operation import Spec
from farfield_service.wire import FRAME
from kernels.range_cases import FEW, FEW_BLOCKS, six_arrays
from serving import Server, words

M, N = FEW
SCORE = "-g*SqDist(x,y)"
ALIASES = ["x = Vi(3)", "y = Vj(3)", "g = Pm(1)"]
WEIGHTED_ALIASES = ["x = Vi(3)", "y = Vj(3)", "b = Vj(2)", "g = Pm(1)"]
RANGES = six_arrays(FEW_BLOCKS, N)
Terms = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def mask() -> torch.Tensor:
    """(M, N): whether the ranges let a row meet a column."""
    met = torch.zeros(M, N, dtype=torch.bool)
    for (first, end), columns in FEW_BLOCKS:
        for begin, stop in columns:
            met[first:end, begin:stop] = True
    return met


def score(x: torch.Tensor, y: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """The formula, dense: (..., M, N, 1)."""
    squares = ((x[..., :, None, :] - y[..., None, :, :]) ** 2).sum(-1, keepdim=True)
    return -g[..., None, None, :] * squares


def total(x: torch.Tensor, y: torch.Tensor, b: torch.Tensor, g: torch.Tensor, met: torch.Tensor) -> torch.Tensor:
    """A Gaussian sum over j."""
    terms = torch.exp(score(x, y, g)) * b[..., None, :, :]
    return torch.where(met[..., None], terms, 0).sum(-2)


def logsumexp(x: torch.Tensor, y: torch.Tensor, g: torch.Tensor, met: torch.Tensor) -> torch.Tensor:
    """log of the sum of Gaussians; -inf where nothing is met."""
    return torch.logsumexp(torch.where(met[..., None], score(x, y, g), -torch.inf), -2)


def largest(x: torch.Tensor, y: torch.Tensor, g: torch.Tensor, met: torch.Tensor) -> torch.Tensor:
    """The largest score; -inf where nothing is met."""
    return torch.where(met[..., None], score(x, y, g), -torch.inf).max(-2).values


def softmax(x: torch.Tensor, y: torch.Tensor, b: torch.Tensor, g: torch.Tensor, met: torch.Tensor) -> torch.Tensor:
    """Mean of b weighted by Gaussians; NaN where nothing is met."""
    shares = torch.where(met[..., None], score(x, y, g), -torch.inf).softmax(-2)
    return (shares * b[..., None, :, :]).sum(-2)


# Name -> words of the Genred, and the dense function; `b` is an argument where it has four.
ROUTINES: dict[str, tuple[dict[str, Any], list[str], Callable[..., torch.Tensor]]] = {
    "Sum": ({"formula": f"Exp({SCORE})*b"}, WEIGHTED_ALIASES, total),
    "LogSumExp": ({"formula": SCORE, "reduction_op": "LogSumExp"}, ALIASES, logsumexp),
    "Max": ({"formula": SCORE, "reduction_op": "Max"}, ALIASES, largest),
    "SumSoftMaxWeight": (
        {"formula": SCORE, "reduction_op": "SumSoftMaxWeight", "formula2": "b"},
        WEIGHTED_ALIASES,
        softmax,
    ),
}
# Batch axes of x, y, b, g.
BATCHES = {
    "none": ((), (), (), ()),
    "crossed": ((2, 1), (3,), (1, 3), ()),
    "of the parameter": ((), (), (2,), (2,)),
    "one and nothing": ((1,), (0,), (1,), ()),
}


@pytest.fixture(params=["local", "http"])
def place(request: pytest.FixtureRequest, server: Server) -> Iterator[str]:
    """Calls are computed there."""
    with farfield.connect("local:cpu" if request.param == "local" else server.url):
        yield request.param


def drawn(batch: str, aliases: list[str], dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Arguments with batch axes."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"x": (M, 3), "y": (N, 3), "b": (N, 2), "g": (1,)}
    own = dict(zip("xybg", BATCHES[batch], strict=True))
    return [
        torch.rand((*own[text[0]], *shapes[text[0]]), generator=generator, dtype=torch.float64).to(dtype)
        for text in aliases
    ]


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("with_ranges", [False, True], ids=["whole", "ranges"])
@pytest.mark.parametrize("name", ROUTINES)
def test_values_and_gradients_are_those_of_dense_torch(name: str, with_ranges: bool) -> None:
    """Every batch, torch and NumPy, with ranges or without: values, all gradients, derivatives along tangents."""
    fields, aliases, dense = ROUTINES[name]
    ranges = RANGES if with_ranges else None
    met = mask() if with_ranges else torch.ones(M, N, dtype=torch.bool)
    some = met.any(1)  # rows of nothing have no gradient to compare: dense torch gives NaN
    for batch in BATCHES:
        arguments = [tensor.requires_grad_() for tensor in drawn(batch, aliases)]
        found, wanted = (
            Genred(aliases=aliases, axis=1, **fields)(*arguments, ranges=ranges),
            dense(*arguments, met),
        )
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12, equal_nan=True)
        e = torch.rand(wanted.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        e[..., ~some, :] = 0
        gradients = torch.autograd.grad(found, arguments, e)
        x, *others = arguments
        expected = torch.autograd.grad(dense(x[..., some, :], *others, met[some]), arguments, e[..., some, :])
        for one, other in zip(gradients, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)
        arrays = [tensor.detach().numpy() for tensor in arguments]
        routine = NumpyGenred(aliases=aliases, axis=1, **fields)
        np.testing.assert_array_equal(routine(*arrays, ranges=ranges), found.detach().numpy())
        for array, gradient in zip(routine.vjp(e.numpy(), *arrays, ranges=ranges), gradients, strict=True):
            np.testing.assert_allclose(array, gradient.numpy(), rtol=1e-11, atol=1e-11)
        tangents = [np.full_like(array, 0.5) for array in arrays]
        along = routine.jvp(tangents, *arrays, ranges=ranges)
        product = sum(float((g.numpy() * t).sum()) for g, t in zip(gradients, tangents, strict=True))
        assert np.sum(along * e.numpy(), where=e.numpy() != 0) == pytest.approx(product, rel=1e-10, abs=1e-10)


@pytest.mark.usefixtures("place")
def test_axis_0_and_both_axes() -> None:
    """Over i the ranges are read the other way round; over both one row remains per element of the batch."""
    fields, aliases, _ = ROUTINES["Sum"]
    arguments = [tensor.requires_grad_() for tensor in drawn("crossed", aliases)]
    x, y, b, g = arguments
    terms = torch.where(mask()[..., None], torch.exp(score(x, y, g)) * b[..., None, :, :], 0)
    for axis, wanted in ((0, terms.sum(-3)), (None, terms.sum((-3, -2)))):
        found = Genred(aliases=aliases, axis=axis, **fields)(*arguments, ranges=RANGES)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
        for one, other in zip(
            torch.autograd.grad(found.sum(), arguments),
            torch.autograd.grad(wanted.sum(), arguments, retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["Sum", "LogSumExp"])
def test_second_derivatives_of_batches_and_ranges(name: str) -> None:
    """gradgradcheck: derivatives of the gradients, by every argument and by the cotangent."""
    fields, aliases, _ = ROUTINES[name]
    generator = torch.Generator().manual_seed(0)
    shapes = {"x": (2, 3, 3), "y": (4, 3), "b": (1, 4, 2), "g": (1,)}
    arguments = [
        torch.rand(shapes[text[0]], generator=generator, dtype=torch.float64).requires_grad_() for text in aliases
    ]
    ranges = six_arrays([((0, 2), [(0, 1), (2, 4)]), ((2, 3), [(1, 3)])], 4)
    with farfield.connect("local:cpu"):
        routine = Genred(aliases=aliases, axis=1, **fields)
        assert torch.autograd.gradgradcheck(lambda *given: routine(*given, ranges=ranges), arguments)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_batches(dtype: torch.dtype) -> None:
    """Results and gradients are stored in half precision, and right to its last digits."""
    fields, aliases, dense = ROUTINES["Sum"]
    arguments = [tensor.requires_grad_() for tensor in drawn("crossed", aliases, dtype)]
    wide = [tensor.detach().double().requires_grad_() for tensor in arguments]
    found, wanted = Genred(aliases=aliases, axis=1, **fields)(*arguments, ranges=RANGES), dense(*wide, mask())
    tolerance = 2.0**-9 if dtype == torch.float16 else 2.0**-6
    torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance)
    for one, other in zip(
        torch.autograd.grad(found.sum(), arguments), torch.autograd.grad(wanted.sum(), wide), strict=True
    ):
        assert one.dtype == dtype
        torch.testing.assert_close(
            one.double(), other, rtol=tolerance, atol=2 * tolerance * float(other.abs().max())
        )


@pytest.mark.usefixtures("place")
def test_ranges_may_be_tensors_of_any_integers() -> None:
    """int32, int64, a mixture of tensors and arrays, a list: the same result."""
    fields, aliases, _ = ROUTINES["LogSumExp"]
    arguments = drawn("none", aliases)
    routine = Genred(aliases=aliases, axis=1, **fields)
    expected = routine(*arguments, ranges=RANGES)
    for ranges in (
        tuple(torch.from_numpy(array) for array in RANGES),
        [torch.from_numpy(array).int() for array in RANGES],
        [*RANGES[:3], *(torch.from_numpy(array) for array in RANGES[3:])],
    ):
        assert torch.equal(routine(*arguments, ranges=ranges), expected)


# What is wrong with ranges -> the change, the class, words of the message.
WRONG_RANGES: dict[str, tuple[Any, type[FarfieldError], str]] = {
    "a number": (5, ArgumentError, "ranges are a int"),
    "named": (dict(enumerate(RANGES)), ArgumentError, "ranges are a dict"),
    "five": (RANGES[:5], ArgumentError, "ranges are 6 arrays"),
    "floats": ([RANGES[0] * 1.0, *RANGES[1:]], DtypeError, "ranges_i is float64"),
    "text": (["a", *RANGES[1:]], DtypeError, "ranges_i is <U1"),
    "too far": ([RANGES[0] + 1, *RANGES[1:]], ArgumentError, "0 <= first <= end <= 8"),
    "flat": ([RANGES[0].ravel(), *RANGES[1:]], ShapeError, "ranges_i has shape (8,)"),
    "the first three twice": ([*RANGES[:3], *RANGES[:3]], ArgumentError, ""),
}


@pytest.mark.parametrize("name", WRONG_RANGES)
def test_wrong_ranges_are_refused_before_anything_is_sent(name: str) -> None:
    """Both kinds of Genred name the array; a server that does not exist is not asked."""
    ranges, kind, message = WRONG_RANGES[name]
    fields, aliases, _ = ROUTINES["Sum"]
    tensors = drawn("crossed", aliases)
    with farfield.connect("http://127.0.0.1:9"):
        for call in (
            lambda given: Genred(aliases=aliases, axis=1, **fields)(*tensors, ranges=given),
            lambda given: NumpyGenred(aliases=aliases, axis=1, **fields)(
                *(t.numpy() for t in tensors), ranges=given
            ),
        ):
            with pytest.raises(FarfieldError) as caught:
                call(ranges)
            assert type(caught.value) is kind
            assert message in str(caught.value)


SPEC = Spec(SCORE, tuple(ALIASES))


def posted(server: Server, spec: Spec, arrays: list[np.ndarray], **more: Any) -> tuple[int, dict[str, Any]]:
    """The answer to a request that no client checked: its status and its error."""
    body = b"".join(encode_call(words(spec) | more, [np.ascontiguousarray(array) for array in arrays]))
    answer = server.request("POST", "/v1/vjp" if spec.wrt else "/v1/reduce", body, {"Content-Type": FRAME})
    return answer.status, msgpack.unpackb(answer.body) if answer.status != 200 else {}


def test_a_server_checks_what_no_client_checked(server: Server) -> None:
    """Wrong ranges and batches are answered with 4xx and the code of their class, the right ones with 200."""
    x, y, g = (tensor.numpy() for tensor in drawn("none", ALIASES))
    batch_x = np.stack([x, x])
    e, narrow = np.ones((M, 1)), [array.astype(np.int32) for array in RANGES]
    twice = six_arrays([((0, M), [(0, 5), (4, 9)])], N)
    largest_of = Spec(SCORE, tuple(ALIASES), "Max")
    place = np.zeros((M, 1), np.int64)
    cases: dict[str, tuple[Spec, list[np.ndarray], dict[str, Any], str | None]] = {
        "right": (SPEC, [x, y, g, *RANGES], {"ranges": True}, None),
        "right, batches": (SPEC, [batch_x, y, g, *RANGES], {"ranges": True}, None),
        "right, gradients": (SPEC.vjp((0, 1, 2)), [x, y, g, e, *RANGES], {"ranges": True}, None),
        "not announced": (SPEC, [x, y, g, *RANGES], {}, "argument_error"),
        "announced, not there": (SPEC, [x, y, g], {"ranges": True}, "bad_request"),
        "only ranges": (SPEC, [*RANGES], {"ranges": True}, "argument_error"),
        "int32": (SPEC, [x, y, g, *narrow], {"ranges": True}, "bad_request"),
        "floats": (SPEC, [x, y, g, RANGES[0] * 1.0, *RANGES[1:]], {"ranges": True}, "dtype_error"),
        "too far": (SPEC, [x, y, g, RANGES[0] + 1, *RANGES[1:]], {"ranges": True}, "argument_error"),
        "negative": (
            SPEC,
            [x, y, g, *RANGES[:2], RANGES[2] - 10**9, *RANGES[3:]],
            {"ranges": True},
            "argument_error",
        ),
        "huge": (SPEC, [x, y, g, *RANGES[:2], RANGES[2] + 2**62, *RANGES[3:]], {"ranges": True}, "argument_error"),
        "flat": (SPEC, [x, y, g, RANGES[0].ravel(), *RANGES[1:]], {"ranges": True}, "shape_error"),
        "not transposed": (SPEC, [x, y, g, *RANGES[:3], *RANGES[:3]], {"ranges": True}, "argument_error"),
        "columns twice": (largest_of.vjp((0,)), [x, y, g, place, e, *twice], {"ranges": True}, "argument_error"),
        "batches": (SPEC, [batch_x, np.stack([y, y, y]), g], {}, "shape_error"),
        "rows": (SPEC, [x, y[:0], g[:0]], {}, "shape_error"),
    }
    wrong = []
    for name, (spec, arrays, more, code) in cases.items():
        status, answer = posted(server, spec, arrays, **more)
        if (answer.get("code"), 400 <= status < 500) != (code, code is not None):
            wrong.append(f"{name}: {status} {answer}")
    assert not wrong, "\n".join(wrong)


def test_a_broken_batch_leaves_the_server_as_it_was(server: Server) -> None:
    """After refusals nothing is held, and the next call is computed."""
    x, y, g = (tensor.numpy() for tensor in drawn("none", ALIASES))
    posted(server, SPEC, [np.stack([x, x]), np.stack([y, y, y]), g])
    posted(server, SPEC, [x, y, g, RANGES[0] + 1, *RANGES[1:]], ranges=True)
    with contextlib.closing(server.session()) as session:
        (found,) = session.call(SPEC, [x, y, g], RANGES)
    assert found.shape == (M, 1)
    assert server.is_idle_and_empty()
