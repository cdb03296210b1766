"""Genred on torch tensors: values, gradients of every order asked for, and errors that name the argument."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad

import farfield
from farfield.errors import ArgumentError, DtypeError, FarfieldError, ShapeError
from farfield.torch import Genred

FORMULA, ALIASES = "Exp(-g*SqDist(x,y))*b", ["x = Vi(3)", "y = Vj(3)", "b = Vj(2)", "g = Pm(1)"]
SHAPES = ((7, 3), (5, 3), (5, 2), (1,))


@pytest.fixture(autouse=True)
def embedded() -> Iterator[None]:
    """Calls are computed in this process."""
    with farfield.connect("local:cpu"):
        yield


def tensors(dtype: torch.dtype = torch.float64, grad: bool = False, shapes: Any = SHAPES) -> list[torch.Tensor]:
    """Arguments of the Gaussian."""
    generator = torch.Generator().manual_seed(0)
    made = [torch.rand(shape, dtype=dtype, generator=generator) for shape in shapes]
    return [tensor.requires_grad_(grad) for tensor in made]


def reference(x: torch.Tensor, y: torch.Tensor, b: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """The Gaussian in torch itself."""
    return torch.exp(-g * ((x[:, None] - y[None]) ** 2).sum(2)) @ b


def routine() -> Genred:
    """The Gaussian."""
    return Genred(FORMULA, ALIASES, axis=1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_the_sum_is_that_of_torch(dtype: torch.dtype, tolerance: float) -> None:
    """Value, type, shape and device."""
    result = routine()(*tensors(dtype))
    assert (result.device.type, result.requires_grad) == ("cpu", False)
    torch.testing.assert_close(result, reference(*tensors(dtype)), rtol=tolerance, atol=tolerance)


def test_two_results_are_a_tuple_and_places_have_no_gradient() -> None:
    """Values and places of a maximum; only the values require grad."""
    x, y = tensors(grad=True)[:2]
    values, places = Genred("x-y", ["x = Vi(3)", "y = Vj(3)"], "Max_ArgMax", axis=1)(x, y)
    expected = (x[:, None] - y[None]).max(1)
    torch.testing.assert_close(values, expected.values)
    assert torch.equal(places, expected.indices)
    assert (values.requires_grad, places.requires_grad, places.dtype) == (True, False, torch.int64)


# Name -> tensors that hold the same numbers in another way.
LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "contiguous": lambda t: t.clone(),
    "transposed": lambda t: t.mT.contiguous().mT if t.ndim == 2 else t,
    "stepped": lambda t: t.repeat_interleave(2, 0)[::2],
    "a part": lambda t: torch.cat([t, t])[: len(t)],
    "offset": lambda t: torch.cat([t[:1], t])[1:],
    "negated twice": lambda t: torch._neg_view(-t),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_do_not_matter(name: str) -> None:
    """Result and gradients are those of contiguous tensors."""
    given = tensors(grad=True)
    results = [routine()(*(LAYOUTS[layout](tensor) for tensor in given)) for layout in ("contiguous", name)]
    assert torch.equal(*results)
    gradients = [torch.autograd.grad(result.square().sum(), given) for result in results]
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)


def test_expanded_tensors_and_cotangents_are_taken() -> None:
    """A row that stands for many, and the expanded cotangent that `sum` sends back."""
    x, y, b, g = tensors(grad=True)
    found = torch.autograd.grad(routine()(x[:1].expand(7, 3), y, b, g).sum(), [x, y, b, g])
    expected = torch.autograd.grad(reference(x[:1].expand(7, 3), y, b, g).sum(), [x, y, b, g])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("asked", [(0,), (3,), (1, 2), (0, 1, 2, 3)])
def test_gradients_arrive_where_they_are_asked_for(asked: tuple[int, ...]) -> None:
    """Only tensors that require grad get one, and it is torch's."""
    given = tensors()
    for place in asked:
        given[place].requires_grad_()
    expected = torch.autograd.grad(reference(*given).sin().sum(), [given[place] for place in asked])
    routine()(*given).sin().sum().backward()
    for place, tensor in enumerate(given):
        assert (tensor.grad is not None) == (place in asked)
    for place, gradient in zip(asked, expected, strict=True):
        torch.testing.assert_close(given[place].grad, gradient)


def test_parameters_of_a_module_can_be_learned() -> None:
    """torch.nn.Parameter as an argument: a few steps of SGD find the width that made the data."""
    x, y, b, g = tensors()
    width = torch.nn.Parameter(torch.tensor([0.2], dtype=torch.float64))
    target = reference(x, y, b, g)
    optimizer = torch.optim.LBFGS([width], max_iter=30)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = (routine()(x, y, b, width) - target).square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    torch.testing.assert_close(width.data, g, rtol=1e-4, atol=1e-4)


def test_without_grad_there_is_no_graph() -> None:
    """Under no_grad and inference_mode the result is the same and bare."""
    given = tensors(grad=True)
    expected = routine()(*given)
    assert expected.requires_grad
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            result = routine()(*given)
        assert not result.requires_grad
        assert torch.equal(result, expected.detach())


@pytest.mark.parametrize("reduction", ["Max", "Min", "LogSumExp"])
def test_other_reductions_have_gradients(reduction: str) -> None:
    """First derivatives agree with torch, with and without grad the values are the same."""
    x, y = tensors(grad=True)[:2]
    made = Genred("Sin(3*x)*y", ["x = Vi(3)", "y = Vj(3)"], reduction, axis=1)
    terms = torch.sin(3 * x[:, None]) * y[None]
    reduced = {"Max": terms.amax, "Min": terms.amin, "LogSumExp": terms.logsumexp}[reduction](1)
    result = made(x, y)
    torch.testing.assert_close(result, reduced)
    assert torch.equal(made(x.detach(), y.detach()), result.detach())
    found = torch.autograd.grad(result.square().sum(), [x, y])
    for one, other in zip(found, torch.autograd.grad(reduced.square().sum(), [x, y]), strict=True):
        torch.testing.assert_close(one, other)


def test_second_derivatives_are_exact() -> None:
    """A Hessian-vector product of the Gaussian, against torch."""

    def product(function: Callable[..., torch.Tensor]) -> tuple[torch.Tensor, ...]:
        given = tensors(grad=True)
        gradients = torch.autograd.grad(function(*given).sin().sum(), given, create_graph=True)
        return torch.autograd.grad(sum(gradient.cos().sum() for gradient in gradients), given)

    for found, expected in zip(product(routine()), product(reference), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_an_order_beyond_the_last_is_a_typed_error() -> None:
    """Four derivatives of exp(x) are exp(x); the fifth is refused by name."""
    x = torch.tensor([[0.5]], dtype=torch.float64, requires_grad=True)
    value = Genred("Exp(x)*y", ["x = Vi(1)", "y = Vj(1)"], axis=1)(x, torch.ones((1, 1), dtype=torch.float64))
    for _ in range(4):
        [value] = torch.autograd.grad(value.sum(), x, create_graph=True)
        torch.testing.assert_close(value, x.exp())
    with pytest.raises(ArgumentError, match="order 5 is above 4"):
        torch.autograd.grad(value.sum(), x)


@pytest.mark.parametrize(("M", "N"), [(0, 5), (7, 0), (0, 0)])
def test_no_rows_give_no_rows_and_no_columns_give_zero(M: int, N: int) -> None:
    """Empty axes have the right shapes, forward and backward."""
    given = tensors(grad=True, shapes=((M, 3), (N, 3), (N, 2), (1,)))
    result = routine()(*given)
    assert torch.equal(result, torch.zeros((M, 2), dtype=torch.float64))
    result.sum().backward()
    for tensor in given:
        assert tensor.grad is not None
        assert torch.equal(tensor.grad, torch.zeros_like(tensor))


def test_nan_and_infinity_are_those_of_torch() -> None:
    """What is not finite in the data goes where torch takes it, in the gradient too."""
    x = torch.tensor([[1.0], [torch.nan], [torch.inf], [-torch.inf]], requires_grad=True)
    y = torch.tensor([[0.0], [2.0]])
    result = Genred("Exp(x+y)", ["x = Vi(1)", "y = Vj(1)"], axis=1)(x, y)
    expected = torch.exp(x + y.T).sum(1, keepdim=True)
    torch.testing.assert_close(result, expected, equal_nan=True)
    [found], [wanted] = (torch.autograd.grad(value.sum(), x) for value in (result, expected))
    torch.testing.assert_close(found, wanted, equal_nan=True)


X, Y, B, G = SHAPES

# Arguments that are wrong: shapes or values -> class, and words of the message.
WRONG_ARGUMENTS: dict[str, tuple[Callable[[], list[Any]], type[FarfieldError], str]] = {
    "one too few": (lambda: [X, Y, B], ArgumentError, "4 arguments are needed"),
    "a NumPy array": (lambda: [X, Y, torch.ones(B).numpy(), G], ArgumentError, "argument 2 is a ndarray"),
    "a number": (lambda: [X, Y, B, 1.0], ArgumentError, "argument 3 is a float"),
    "a wide x": (lambda: [(7, 4), Y, B, G], ShapeError, "argument 0 (x)"),
    "other rows": (lambda: [X, Y, (6, 2), G], ShapeError, "argument 2 (b) has 6 rows, but argument 1 (y) has 5"),
    "a parameter without axes": (lambda: [X, Y, B, ()], ShapeError, "argument 3 (g)"),
    "a wide parameter": (lambda: [X, Y, B, (2,)], ShapeError, "argument 3 (g)"),
    "float64 among float32": (lambda: [X, Y, torch.ones(B).double(), G], DtypeError, "argument 2 (b) is float64"),
    "integers": (lambda: [torch.ones(X).long(), Y, B, G], DtypeError, "argument 0 (x) is int64: write .float()"),
    "truths": (lambda: [torch.ones(X).bool(), Y, B, G], DtypeError, "argument 0 (x) is bool"),
    "complex": (lambda: [torch.ones(X) * 1j, Y, B, G], DtypeError, "argument 0 (x) is complex64"),
    "float16 among float32": (lambda: [torch.ones(X).half(), Y, B, G], DtypeError, "argument 0 (x) is float16"),
    "another device": (lambda: [torch.ones(X, device="meta"), Y, B, G], ArgumentError, "argument 1 on cpu"),
}


@pytest.mark.parametrize("name", WRONG_ARGUMENTS)
def test_wrong_arguments_are_named(name: str) -> None:
    """Each row has its class and names the argument; the right arguments beside it are computed."""
    make, kind, words = WRONG_ARGUMENTS[name]
    with pytest.raises(FarfieldError) as caught:
        routine()(*(torch.ones(value) if isinstance(value, tuple) else value for value in make()))
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert routine()(*(torch.ones(shape) for shape in SHAPES)).shape == (7, 2)


def test_a_cotangent_of_another_type_is_converted_as_torch_does() -> None:
    """torch itself takes float64 for a float32 result and rounds it; a wrong shape is torch's own error."""
    x, *rest = tensors(torch.float32, grad=True)
    result, expected = routine()(x, *rest), reference(x, *rest)
    for cotangent in (torch.full((7, 2), 0.1), torch.full((7, 2), 0.1, dtype=torch.float64)):
        found = torch.autograd.grad(result, x, cotangent, retain_graph=True)[0]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, torch.autograd.grad(expected, x, cotangent, retain_graph=True)[0])
    with pytest.raises(RuntimeError, match="shape"):
        torch.autograd.grad(result, x, torch.ones(7, 3))


def test_a_formula_is_refused_when_the_routine_is_made() -> None:
    """The place is under the caret."""
    with pytest.raises(farfield.FormulaError) as caught:
        Genred("Exp(-g*SqDist(x,z))*b", ALIASES, axis=1)
    _, text, caret = str(caught.value).splitlines()
    assert text[caret.index("^") :] == "z))*b"


def test_the_same_call_has_a_graph_only_where_gradients_are_wanted() -> None:
    """The shortcut of tensors without gradients gives the same numbers as the graph, and no history."""
    routine = Genred("Exp(-SqDist(x,y))", ["x = Vi(2)", "y = Vj(2)"], axis=1)
    x, y = torch.randn(5, 2), torch.randn(6, 2)
    plain = routine(x, y)
    tracked = routine(x.clone().requires_grad_(), y)
    assert plain.grad_fn is None
    assert tracked.grad_fn is not None
    assert torch.equal(plain, tracked)


@pytest.mark.filterwarnings(
    "ignore:.torch.jit", "ignore::torch.jit.TracerWarning"
)  # deprecated; sizes are constants
def test_a_traced_call_computes_anew() -> None:
    """A trace holds the call, not the numbers that it gave."""
    routine = Genred("Exp(-SqDist(x,y))", ["x = Vi(2)", "y = Vj(2)"], axis=1)
    x, y = torch.randn(5, 2), torch.randn(6, 2)
    traced = torch.jit.trace(lambda x: routine(x, y) * 2, (x,), check_trace=False)
    assert torch.allclose(traced(x + 1), routine(x + 1, y) * 2)


def test_bfloat16_of_any_view_is_read() -> None:
    """Negative views and strides are those of the numbers that they show."""
    routine = Genred("Exp(-SqDist(x,y))", ["x = Vi(2)", "y = Vj(2)"], axis=1)
    x, y = torch.randn(5, 4).bfloat16(), torch.randn(6, 2).bfloat16()
    expected = routine((-x[:, ::2]).clone(), y)
    assert torch.equal(routine(torch._neg_view(x)[:, ::2], y), expected)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch uses it itself
def test_forward_mode_is_refused_and_not_lost() -> None:
    """A tangent raises torch's own error; it does not silently vanish."""
    routine = Genred("Exp(-SqDist(x,y))", ["x = Vi(2)", "y = Vj(2)"], axis=1)
    x, y = torch.randn(5, 2), torch.randn(6, 2)
    with forward_ad.dual_level():
        with pytest.raises(RuntimeError, match="jvp"):
            routine(forward_ad.make_dual(x, torch.ones_like(x)), y)
        assert torch.equal(routine(x, y), routine(x, y))
