"""The sum reduction that Farfield is judged by first, through every transport and both formats, in full size."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np
import pytest
import torch

import farfield
from farfield.torch import Genred
from farfield_kernels.operation import Spec
from farfield_service.wire import FRAME, MSGPACK
from serving import Server, frame, serving
from wire.test_golden import msgpack_call

FORMULA, VARIABLES = "Square(p-a)*Exp(x+y)", ["x = Vi(3)", "y = Vj(3)", "a = Vj(1)", "p = Pm(1)"]
GAUSSIAN, GAUSSIAN_VARIABLES = "Exp(-g*SqDist(x,y))*b", ["x = Vi(2)", "y = Vj(2)", "b = Vj(1)", "g = Pm(1)"]
M, N = 3000, 5000
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
NAMES = ("x", "y", "a", "p")


@pytest.fixture(scope="module")
def urls(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """One address per transport."""
    folder = tmp_path_factory.mktemp("unix")
    with serving(folder, "--uds", str(folder / "farfield.sock")) as other:
        yield {"http": server.url, "http+unix": other.url, "local": "local:cpu"}


@pytest.fixture(params=["http", "http+unix", "local"])
def place(request: pytest.FixtureRequest, urls: dict[str, str]) -> Iterator[None]:
    """Calls go there."""
    with farfield.connect(urls[request.param]):
        yield


def inputs(dtype: torch.dtype = torch.float64, rows: tuple[int, int] = (M, N)) -> list[torch.Tensor]:
    """x, y, a, p and the cotangent e."""
    generator = torch.Generator().manual_seed(1)
    shapes = ((rows[0], 3), (rows[1], 3), (rows[1], 1), (1,), (rows[0], 3))
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [tensor.to(dtype) for tensor in drawn]


def reference(x: torch.Tensor, y: torch.Tensor, a: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """The same sum in torch; exp(x + y) is taken apart, as all M x N x 3 terms would need gigabytes."""
    return torch.exp(x) * ((p - a) ** 2 * torch.exp(y)).sum(0)


def expected(dtype: torch.dtype) -> list[torch.Tensor]:
    """c and its four gradients in float64, of the inputs as rounded to `dtype`."""
    *arguments, e = (tensor.double() for tensor in inputs(dtype))
    arguments = [tensor.requires_grad_() for tensor in arguments]
    c = reference(*arguments)
    return [c.detach(), *torch.autograd.grad(c, arguments, e)]


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest difference, relative to the largest value."""
    assert found.shape == wanted.shape
    return float((found.double() - wanted).abs().max() / wanted.abs().max())


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_the_sum_and_its_gradients_agree_with_torch(dtype: torch.dtype) -> None:
    """c and the gradients in x, y, a, p of 3000 x 5000 pairs, to 1e-5 in float32 and 1e-12 in float64."""
    *arguments, e = inputs(dtype)
    arguments = [tensor.requires_grad_() for tensor in arguments]
    c = Genred(FORMULA, VARIABLES, reduction_op="Sum", axis=1)(*arguments)
    found = [c.detach(), *torch.autograd.grad(c, arguments, e)]
    for name, one, other in zip(("c", *NAMES), found, expected(dtype), strict=True):
        assert one.dtype == dtype
        assert relative_error(one, other) < TOLERANCE[dtype], name


@pytest.mark.usefixtures("place")
def test_the_gradient_of_the_published_example_is_the_one_it_shows() -> None:
    """grad(c, y, e) with only y requiring grad, as the example calls it."""
    x, y, a, p, e = inputs(torch.float32)
    y.requires_grad_()
    c = Genred(FORMULA, VARIABLES, reduction_op="Sum", axis=1)(x, y, a, p)
    [g] = torch.autograd.grad(c, y, e)
    assert relative_error(g, expected(torch.float32)[2]) < 1e-5


@pytest.mark.usefixtures("place")
def test_first_and_second_derivatives_are_those_of_differences() -> None:
    """gradcheck and gradgradcheck of the seed's formula and of a Gaussian, in float64."""
    *seed, _ = inputs(rows=(2, 3))
    generator = torch.Generator().manual_seed(2)
    gaussian = [torch.rand(s, generator=generator, dtype=torch.float64) for s in ((2, 2), (3, 2), (3, 1), (1,))]
    for formula, variables, arguments in (
        (FORMULA, VARIABLES, seed),
        (GAUSSIAN, GAUSSIAN_VARIABLES, gaussian),
    ):
        routine = Genred(formula, variables, axis=1)
        given = [tensor.requires_grad_() for tensor in arguments]
        assert torch.autograd.gradcheck(routine, given)
        assert torch.autograd.gradgradcheck(routine, given)


def test_both_formats_give_the_same_bytes(server: Server) -> None:
    """A plain msgpack client and the frame get identical results, forward and for all gradients."""
    arrays = [np.asarray(tensor) for tensor in inputs(torch.float32)]
    spec = Spec(FORMULA, tuple(VARIABLES))
    for path, call, given in (
        ("/v1/reduce", spec, arrays[:4]),
        ("/v1/vjp", spec.vjp((0, 1, 2, 3)), arrays),
    ):
        with contextlib.closing(server.session()) as session:
            framed = session.call(call, given)
        answer = server.request("POST", path, msgpack_call(call, given), {"Content-Type": MSGPACK})
        assert answer.status == 200
        packed: list[Any] = msgpack.unpackb(answer.body)["results"]
        assert [result["data"] for result in packed] == [array.tobytes() for array in framed]
        assert [(result["dtype"], tuple(result["shape"])) for result in packed] == [
            (array.dtype.name, array.shape) for array in framed
        ]


def test_places_give_the_same_bytes(urls: dict[str, str]) -> None:
    """Over TCP, over a Unix socket and in process the result is one and the same."""
    arguments = inputs(torch.float32, rows=(200, 300))[:4]
    results = []
    for url in urls.values():
        with farfield.connect(url) as session:
            results.append(Genred(FORMULA, VARIABLES, axis=1, session=session)(*arguments))
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_the_same_request_gives_the_same_bytes_again(server: Server) -> None:
    """A request is a pure function of its arguments: that is why it may be replayed."""
    arrays = [np.asarray(tensor) for tensor in inputs(torch.float32)[:4]]
    body = frame(Spec(FORMULA, tuple(VARIABLES)), arrays)
    answers = {server.request("POST", "/v1/reduce", body, {"Content-Type": FRAME}).body for _ in range(3)}
    assert len(answers) == 1
