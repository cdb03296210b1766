"""Operator declaration -> checks of it: emitted code against its NumPy reference, derivatives against differences.

Each check takes the name of an operator and turns all its cases into the outputs of one kernel, whose rows are
the samples. Nothing but the declaration says what is right, so a new operator is covered without a new test.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from farfield_kernels import engine, execute, host_device, operation
from farfield_kernels.differentiate import vjp
from farfield_kernels.domains import REAL, Case
from farfield_kernels.emit import emit
from farfield_kernels.expr import OPERATORS, Array, Expr, apply, variable
from farfield_kernels.launch import CpuKernel, Extent
from farfield_kernels.lower import Program, lower
from farfield_kernels.operators.differential import Differential
from farfield_kernels.reductions import REDUCTIONS
from farfield_kernels.rewrite import rewrite
from farfield_kernels.schedule import Device, Schedule, plan
from farfield_kernels.stages import Emitted, plan_call
from farfield_kernels.terms import Term

ROWS = 37  # samples; a multiple of no vector width
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}  # relative to max(1, |reference|)


class Arguments:
    """Arrays of one kernel and the variables that stand for them."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.arrays: list[Array] = []

    def add(self, array: Array, axis: str = "i") -> Expr:
        """The variable of a new array (rows, dim)."""
        self.arrays.append(array)
        return variable(len(self.arrays) - 1, array.shape[-1], axis)

    def draw(self, dim: int) -> tuple[Expr, Array]:
        """A new variable of standard normal numbers, and the numbers."""
        array = self.rng.standard_normal((ROWS, dim))
        return self.add(array), array


def stages(formulas: Sequence[Expr], dtype: str, device: Device = "cpu") -> tuple[Program, Schedule, str]:
    """Program, schedule and source of one kernel that sums each formula over its columns and keeps axis i."""
    program = lower([Term(rewrite(formula), REDUCTIONS["Sum"], "i") for formula in formulas], "i")
    schedule = plan(program, device, dtype)
    return program, schedule, emit(program, schedule)


def compiled_kernel(formulas: Sequence[Expr], dtype: str) -> CpuKernel:
    """That kernel for the CPU, compiled."""
    return CpuKernel(*stages(formulas, dtype))


def host_kernel(formulas: Sequence[Expr], dtype: str) -> Any:
    """That kernel for the CPU, compiled or on NumPy as the environment says."""
    (kernel,) = execute.backend_for("cpu").build((Emitted(*stages(formulas, dtype)),))
    return kernel


def evaluate(
    formulas: Sequence[Expr], arrays: Sequence[Array], dtype: str, rows: int = ROWS, device: Device = "cpu"
) -> list[Array]:
    """Values of formulas by one kernel with one column: a (rows, dim) array each."""
    inputs = [np.ascontiguousarray(array, dtype) for array in arrays]
    if device == "cuda":
        backend = execute.backend_for(device)
        (on_device,) = backend.build((Emitted(*stages(formulas, dtype, device)),))
        launch = on_device.launch(Extent(rows, 1, terms=rows))
        with backend.open(inputs) as passage:
            written = [passage.empty((rows, o.count), np.dtype(dtype)) for o in on_device.program.outputs]
            passage.compute(launch, passage.arguments, written, launch.memory(passage), 0, launch.units)
            return [passage.get(array) for array in written]
    kernel = host_kernel(formulas, dtype)
    outputs = [np.empty((rows, output.count), dtype) for output in kernel.program.outputs]
    kernel.launch(Extent(rows, 1, terms=rows))(inputs, outputs)
    return outputs


def assert_close(got: Array, expected: Array, tolerance: float, what: str) -> None:
    """Both of one shape, and nowhere further apart than `tolerance * max(1, |expected|)`."""
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, expected {expected.shape}"
    error = np.abs(got - expected) / np.maximum(1, np.abs(expected))
    worst = float(error.max(initial=0))
    assert worst <= tolerance, (
        f"{what}: off by {worst:.2e} relative to max(1, |expected|), allowed {tolerance:.0e}"
    )


@dataclass(frozen=True)
class Call:
    """One case of an operator on drawn operands."""

    what: str
    formula: Expr
    operands: list[Expr]
    points: list[Array]
    reference: Callable[..., Array]
    at_pair: Callable[[Expr], Expr]
    """The same formula of operands that are multiplied by a variable."""

    def expected(self, points: Sequence[Array] | None = None) -> Array:
        """The declared reference, (ROWS, dim)."""
        with np.errstate(all="ignore"):
            value = np.asarray(self.reference(*(self.points if points is None else points)), np.float64)
        return np.broadcast_to(value, (ROWS, value.shape[-1]))


def calls_of(name: str, arguments: Arguments, dtype: str, *, ties: bool = False) -> list[Call]:
    """Every declared case of an operator on operands from its domain; with `ties` every second row is rounded."""
    operator = OPERATORS[name]
    if isinstance(operator, Differential):
        return [_derivative(operator, case, arguments, dtype) for case in operator.cases]
    calls = []
    for case in operator.cases:
        drawn = []
        for place, dim in enumerate(case.dims):
            domain = operator.domain_of(place)
            array = domain.sample(arguments.rng, (ROWS, dim)).astype(dtype)
            if ties:
                array[::2] = domain.tied(array[::2])
            drawn.append(array)
        operands = [arguments.add(array) for array in drawn]
        calls.append(
            Call(
                what=f"{name} of dims {case.dims} with integers {case.integers}",
                formula=apply(name, *operands, *case.integers),
                operands=operands,
                points=[array.astype(np.float64) for array in drawn],
                reference=functools.partial(_with_integers, operator.reference, case.integers),
                at_pair=functools.partial(_at_pair, name, operands, case.integers),
            )
        )
    return calls


def _with_integers(reference: Callable[..., Array], integers: tuple[Any, ...], *points: Array) -> Array:
    return reference(*points, *integers)


def _at_pair(name: str, operands: list[Expr], integers: tuple[Any, ...], one: Expr) -> Expr:
    return apply(name, *(operand * one for operand in operands), *integers)


def _derivative(operator: Differential, case: Case, arguments: Arguments, dtype: str) -> Call:
    """A derivative operator on a formula of one variable whose Jacobian is known: A sin(v) + cos(sum v), or
    A v + sum v if it must be linear."""
    D, dim, *others = case.dims
    A, v, *rest = (REAL.sample(arguments.rng, (ROWS, d)).astype(dtype) for d in (D * dim, dim, *others))
    matrix, variable_, *operands = (arguments.add(array) for array in (A, v, *rest))
    total = apply("Sum", variable_)
    if operator.of == "linear":
        formula = apply("MatVecMult", matrix, variable_) + total
    else:
        formula = apply("MatVecMult", matrix, apply("Sin", variable_)) + apply("Cos", total)
    wide = A.astype(np.float64).reshape(ROWS, D, dim)

    def reference(v: Array, *others: Array) -> Array:
        if operator.of == "linear":
            matrices = wide + 1
        elif operator.of == "scalar":
            hessian = -np.cos(v.sum(-1))[:, None, None] * np.ones((dim, dim))
            matrices = hessian - np.eye(dim) * (wide[:, 0] * np.sin(v))[:, None, :]
        else:
            matrices = wide * np.cos(v)[:, None, :] - np.sin(v.sum(-1))[:, None, None]
        return operator.reference(matrices, *others)

    return Call(
        what=f"{operator.name} of dims {case.dims}",
        formula=apply(operator.name, formula, variable_, *operands),
        operands=[variable_, *operands],
        points=[array.astype(np.float64) for array in (v, *rest)],
        reference=reference,
        at_pair=lambda one: apply(operator.name, formula * one, variable_, *(x * one for x in operands)),
    )


def check_value(name: str, dtype: str, device: Device = "cpu") -> None:
    """The emitted code of every case agrees with the reference, computed once per row and once per pair."""
    arguments = Arguments()
    calls = calls_of(name, arguments, dtype, ties=True)
    one = arguments.add(np.ones((1, 1)), "j")
    at_pairs = [call.at_pair(one) for call in calls]
    values = evaluate([call.formula for call in calls] + at_pairs, arguments.arrays, dtype, device=device)
    for call, at_row, at_pair in zip(calls, values[: len(calls)], values[len(calls) :], strict=True):
        expected = call.expected()
        assert call.formula.dim == expected.shape[-1], f"{call.what}: dim {call.formula.dim}"
        assert_close(at_row, expected, TOLERANCE[dtype], f"{call.what}, once per row")
        assert_close(at_pair, expected, TOLERANCE[dtype], f"{call.what}, once per pair")


def slope(function: Callable[[float], Array], step: float) -> Array:
    """Derivative at 0 by differences of fourth order."""
    near, far = function(step) - function(-step), function(2 * step) - function(-2 * step)
    return (8 * near - far) / (12 * step)


def _inner(a: Array, b: Array) -> Array:
    return (a * b).sum(-1)


def _moved(points: Sequence[Array], directions: Sequence[Array | None], by: float) -> list[Array]:
    return [p if d is None else p + by * d for p, d in zip(points, directions, strict=True)]


def check_vjp(name: str) -> None:
    """<vjp(g), d> = <g, derivative along d> for each operand, the derivative by differences of the reference."""
    arguments = Arguments()
    calls = calls_of(name, arguments, "float64")
    cotangents = [arguments.draw(call.formula.dim) for call in calls]
    swept = [
        vjp([(call.formula, g)], call.operands) if call.operands else []
        for call, (g, _) in zip(calls, cotangents, strict=True)
    ]
    values = iter(
        evaluate([f for formulas in swept for f in formulas], arguments.arrays, "float64") if any(swept) else []
    )
    for call, (_, g) in zip(calls, cotangents, strict=True):
        for place, point in enumerate(call.points):
            direction = arguments.rng.standard_normal(point.shape)
            along = [direction if k == place else None for k in range(len(call.points))]
            derivative = slope(lambda s, c=call, d=along: c.expected(_moved(c.points, d, s)), 1e-4)
            assert_close(
                _inner(next(values), direction),
                _inner(g, derivative),
                1e-7,
                f"vjp of {call.what}, operand {place}",
            )


def check_second_order(name: str) -> None:
    """The vjp of the vjp agrees with mixed second differences of the reference, cotangent included."""
    arguments = Arguments()
    calls = calls_of(name, arguments, "float64")
    formulas, cases = [], []
    for call in calls:
        if not call.operands:
            continue
        g, cotangent = arguments.draw(call.formula.dim)
        first = vjp([(call.formula, g)], call.operands)
        tangents = [arguments.draw(operand.dim) for operand in call.operands]
        second = vjp([(f, t) for f, (t, _) in zip(first, tangents, strict=True)], [*call.operands, g])
        formulas += second
        cases.append((call, cotangent, [numbers for _, numbers in tangents]))
    values = iter(evaluate(formulas, arguments.arrays, "float64") if formulas else [])
    for call, g, c in cases:

        def along_c(points: list[Array], call: Call = call, c: list[Array] = c) -> Array:
            return slope(lambda s: call.expected(_moved(points, c, s)), 4e-4)

        for place, point in enumerate(call.points):
            d = arguments.rng.standard_normal(point.shape)
            along = [d if k == place else None for k in range(len(call.points))]
            mixed = slope(lambda s, d=along, call=call: along_c(_moved(call.points, d, s)), 4e-4)
            what = f"second order of {call.what}, operand {place}"
            assert_close(_inner(next(values), d), _inner(g, mixed), 1e-6, what)
        assert_close(next(values), along_c(call.points), 1e-7, f"second order of {call.what}, cotangent")


def forget_compiled_formulas() -> None:
    """Empty the caches that would outlive a changed declaration."""
    operation.read.cache_clear()
    plan_call.cache_clear()
    engine._ready_without_ranges.cache_clear()
    host_device._cpu_kernels.cache_clear()
    host_device._numpy_kernels.cache_clear()
