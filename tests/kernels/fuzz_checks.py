"""Groups of formulas -> checks of all stages.

Text is held against the graph, the graph against values, kernels against the reference, derivatives against each
other and against differences.

How far two right computations may lie apart depends on the formula. It is measured: the reference is evaluated
again with random errors of a few units in the last place in every constant and operator, and what is compared may
differ by a few times what that changes. A jump that rounding can cross thus excuses what it excuses, and no more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from farfield_kernels import engine
from farfield_kernels.expr import Array, Axis
from farfield_kernels.operation import Operation, Reduce, Spec, read
from farfield_kernels.reference import reference
from farfield_kernels.rewrite import rewrite
from farfield_kernels.separate import separate

from .formula_strategies import Group
from .formula_trees import Tree
from .formula_values import values
from .operator_checks import slope
from .reduction_checks import forced_splits

SAMPLES = 3  # perturbed evaluations
NOISE = 4  # units in the last place by which each operator is perturbed
SPREADS = 8  # times the largest change that perturbations made
UNITS = 64  # in the last place of the largest number, allowed whatever the perturbations change, and one per term
LOOSE = {"float32": 1e-3, "float64": 1e-9}  # an allowance beyond this part of the largest number checks little


@dataclass
class Report:
    """How much was checked, and how strictly.

    Args:
        compared, loose: components of results and gradients, and how many of them were allowed too much to say
            anything.
        slopes, jumps: derivatives compared with differences, and how many lay at a jump or a kink.
        separated: formulas that were also computed by passes over rows and over columns.
    """

    compared: int = 0
    loose: int = 0
    slopes: int = 0
    jumps: int = 0
    separated: int = 0

    def add(self, other: Report) -> None:
        """Count another report too."""
        for name in vars(other):
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Rounding:
    """Errors of rounding, larger than they are: what `reference` takes as `perturb`. Integers stay exact."""

    def __init__(self, dtype: str, number: int) -> None:
        self.rng = np.random.default_rng(number)
        self.size = NOISE * float(np.finfo(dtype).eps)

    def __call__(self, value: Array) -> Array:
        """The value, each number off by some units in its last place and in that of the largest tenth."""
        finite = np.isfinite(value)
        largest = np.abs(value[finite]).max(initial=0)
        error = self.size * (np.abs(value) + 0.1 * largest) * self.rng.uniform(-1, 1, value.shape)
        return np.where(finite & (value != np.rint(value)), value + error, value)


def check_group(group: Group, report: Report) -> None:
    """All checks of one call; its formulas are told apart by the caller.

    Raises:
        AssertionError: what differs, and by how much.
    """
    spec = group.spec
    operation = read(spec)
    assert isinstance(operation, Reduce)
    formula, weights = group.joined
    assert operation.formula is formula.expr, f"{formula.text} was read as {operation.formula!r}"
    assert operation.weights is (weights.expr if weights else None), "the weights were read as something else"
    for tree in group.formulas:
        _check_graph(group, tree)
    _check_call(group, report)
    separable = _separable(group)
    if separable is not None:
        report.separated += len(separable.formulas)
        _check_call(separable, report)


def _check_call(group: Group, report: Report) -> None:
    _check_values(group, group.spec, "float32", report)
    results = _check_values(group, group.spec.forward(), "float64", report)
    operation = read(group.spec.forward())
    assert isinstance(operation, Reduce)
    if operation.reduction.gradient is not None:
        _check_derivatives(group, results, report)


def _separable(group: Group) -> Group | None:
    """Those formulas of a sum that separate into passes over rows and over columns, to be computed so."""
    if group.reduction != "Sum" or group.options or group.batch or group.ranges is not None:
        return None
    row_axis: Axis = "j" if group.axis == 0 else "i"
    found = [
        tree
        for tree in group.formulas
        if separate(rewrite(tree.expr), row_axis, len(group.arguments), "float64") is not None
    ]
    return replace(group, formulas=tuple(found), options={"separation": "on"}) if found else None


# ---- graph ---------------------------------------------------------------------------------------------------


def _pairs(group: Group, tree: Tree, perturb: Callable[[Array], Array] | None = None) -> Array:
    """What the graph of a formula computes at all pairs: (*batch, M, N, dim)."""
    batch, (M, N) = group.batch, group.sizes
    arrays = [np.broadcast_to(a.array, (*batch, *a.array.shape[a.rows_from :])) for a in group.arguments]
    found = [values(tree.expr, [a[at] for a in arrays], M, N, perturb=perturb) for at in np.ndindex(*batch)]
    return np.stack(found).reshape(*batch, M, N, tree.dim)


def _check_graph(group: Group, tree: Tree) -> None:
    """The graph computes what the references of the operators, as they are named in the text, say."""
    got = _pairs(group, tree)
    samples = [_pairs(group, tree, Rounding("float64", k)) for k in range(SAMPLES)]
    expected = np.broadcast_to(tree.value, got.shape)
    allowed = _allowance(got, samples, "float64")
    if not tree.is_exact:
        allowed = allowed + 1e-5 * np.maximum(1, np.abs(expected).max())
    _assert_near(got, expected, allowed, "the graph of a formula, against the references of its operators")


# ---- values --------------------------------------------------------------------------------------------------


def _allowance(
    expected: Array,
    samples: Sequence[Array],
    dtype: str,
    *,
    terms: int = 0,
    by_component: bool = True,
    least: Array | None = None,
) -> Array:
    """How far a right result may be off: one number for each component (the last axis), or one for all.

    Args:
        terms: how many numbers are summed; where they are equal, each addition may be off in the same direction.
        least: sizes of what was computed with, where results may be smaller because terms cancel.
    """
    axes = tuple(range(expected.ndim - by_component))
    with np.errstate(all="ignore"):
        moved = [np.where(_same(sample, expected), 0.0, np.abs(sample - expected)) for sample in samples]
        size = np.where(np.isfinite(expected), np.abs(expected), 0).max(axes, keepdims=True, initial=1e-3)
    spread = np.nan_to_num(np.max(moved, axis=0), nan=np.inf).max(axes, keepdims=True, initial=0)
    if least is not None:
        size = np.maximum(size, least if least.shape[-1:] == expected.shape[-1:] else least.max())
    return np.asarray(SPREADS * spread + (UNITS + terms) * float(np.finfo(dtype).eps) * size)


def _same(a: Array, b: Array) -> Array:
    """Where two arrays hold the same, NaN and infinities included."""
    return np.asarray((a == b) | (np.isnan(a) & np.isnan(b)))


def _assert_near(got: Array, expected: Array, allowed: Array, what: str) -> None:
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, expected {expected.shape}"
    with np.errstate(all="ignore"):
        apart = np.abs(got - expected)
    wrong = ~_same(got, expected) & ~(apart <= allowed) & ~np.isinf(np.broadcast_to(allowed, apart.shape))
    if wrong.any():
        at = tuple(np.argwhere(wrong)[0])
        limit = np.broadcast_to(allowed, apart.shape)[at]
        raise AssertionError(
            f"{what}: {got[at]!r} at {[int(k) for k in at]}, expected {expected[at]!r} within {limit:.1e}; "
            f"{int(wrong.sum())} of {wrong.size} are wrong"
        )


def _sampled(
    operation: Operation, arrays: Sequence[Array], group: Group, dtype: str
) -> tuple[list[Array], list[list[Array]]]:
    """The reference, and the reference perturbed."""
    expected = reference(operation, arrays, group.ranges)
    samples = [reference(operation, arrays, group.ranges, Rounding(dtype, k)) for k in range(SAMPLES)]
    return expected, samples


def _check_values(group: Group, spec: Spec, dtype: str, report: Report) -> list[Array]:
    """The kernel agrees with the reference, in one piece and with its columns split."""
    arrays = [a.array for a in group.arguments]
    given = [array.astype(dtype) for array in arrays]
    got = engine.run(spec, given, device="cpu", ranges=group.ranges).arrays
    runs = {dtype: got}
    if group.ranges is None:
        with forced_splits(3):
            runs[f"{dtype} with split columns"] = engine.run(spec, given, device="cpu").arrays
    operation = read(spec)
    assert isinstance(operation, Reduce)
    expected, samples = _sampled(operation, arrays, group, dtype)
    value = group.joined[0].value
    least = np.abs(value).max(tuple(range(value.ndim - 1)), initial=0)
    for how, results in runs.items():
        for place, (result, right) in enumerate(zip(results, expected, strict=True)):
            what = f"result {place}, {how}"
            if right.dtype.kind == "i":
                kind = operation.reduction.results[place].kind
                _check_integers(group, dtype, kind, result, right, [s[place] for s in samples], what)
                continue
            allowed = _allowance(right, [s[place] for s in samples], dtype, terms=max(group.sizes), least=least)
            _assert_near(result, right, allowed, what)
            _count(report, right, allowed, dtype)
    return got


def _count(report: Report, expected: Array, allowed: Array, dtype: str) -> None:
    size = float(np.where(np.isfinite(expected), np.abs(expected), 0).max(initial=0))
    report.compared += allowed.size
    report.loose += int(np.sum(allowed > LOOSE[dtype] * max(size, 1e-3)))


def _check_integers(
    group: Group, dtype: str, kind: str, got: Array, expected: Array, samples: Sequence[Array], what: str
) -> None:
    """Places are right, or those of terms that rounding cannot tell from the right ones; counts likewise."""
    assert got.dtype == expected.dtype, f"{what}: {got.dtype}"
    if np.array_equal(got, expected):
        return
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, expected {expected.shape}"
    if kind == "count":
        within = np.max([np.abs(sample - expected) for sample in samples], axis=0)
        assert np.all(np.abs(got - expected) <= within), f"{what}: counts differ"
        return
    formula, _ = group.joined
    terms = _pairs(group, formula)
    noisy = [_pairs(group, formula, Rounding(dtype, k)) for k in range(SAMPLES)]
    allowed = 2 * _allowance(terms, noisy, dtype).reshape(-1)
    met = group.met
    terms = np.where(met[..., None], terms, np.nan)
    if group.axis is None:
        terms = terms.reshape(*group.batch, 1, -1, formula.dim)
    elif group.axis == 0:
        terms = terms.swapaxes(-2, -3)
    rows = terms.shape[-3]
    place = got.reshape(*group.batch, rows, -1, formula.dim)
    right = expected.reshape(place.shape)
    assert np.array_equal(place < 0, right < 0), f"{what}: places of nothing differ"
    assert np.all(place < terms.shape[-2]), f"{what}: places beyond the last column"
    chosen, best = (np.take_along_axis(terms, np.maximum(x, 0), -2) for x in (place, right))
    with np.errstate(all="ignore"):
        good = (np.abs(chosen - best) <= allowed) | (place < 0)
    assert good.all(), f"{what}: places of other terms, at {np.argwhere(~good)[:3].tolist()}"


# ---- derivatives ---------------------------------------------------------------------------------------------


def _check_derivatives(group: Group, results: Sequence[Array], report: Report) -> None:
    """Gradients agree with the reference, tangents with differences, and both with each other."""
    spec, arrays, ranges = group.spec, [a.array for a in group.arguments], group.ranges
    forward, wrt = read(spec.forward()), tuple(range(len(arrays)))
    numbers = [result for result in results if result.dtype.kind == "f"]
    rng = np.random.default_rng(len(spec.formula))
    directions = [rng.uniform(-1, 1, array.shape) for array in arrays]
    slopes, doubts = _differences(forward, arrays, directions, ranges)
    cotangents = [_cotangent(rng, *found) for found in zip(numbers, slopes, strict=True)]
    taken = [*arrays, *(results[place] for place in forward.saved), *cotangents]

    gradients = engine.run(spec.vjp(wrt), taken, device="cpu", ranges=ranges).arrays
    expected, samples = _sampled(read(spec.vjp(wrt)), taken, group, "float64")
    spreads = 0.0
    for place, (gradient, right) in enumerate(zip(gradients, expected, strict=True)):
        found = [s[place] for s in samples]
        allowed = _allowance(right, found, "float64", terms=max(group.sizes), by_component=False)
        _assert_near(gradient, right, allowed, f"gradient in argument {place}")
        _count(report, right, allowed, "float64")
        spreads += float(allowed.max()) * float(np.abs(directions[place]).sum())

    tangents = engine.run(spec.jvp(wrt), [*taken, *directions], device="cpu", ranges=ranges).arrays
    for place, (tangent, right, doubt) in enumerate(zip(tangents, slopes, doubts, strict=True)):
        _check_slopes(tangent, right, doubt, numbers[place], report, f"derivative of result {place}")
    left = [e * t for e, t in zip(cotangents, tangents, strict=True)]
    right = [g * d for g, d in zip(gradients, directions, strict=True)]
    total = float(sum(np.abs(x).sum() for x in (*left, *right)))
    apart = abs(float(sum(x.sum() for x in left)) - float(sum(x.sum() for x in right)))
    allowed_apart = 1e-12 * total + spreads
    assert apart <= allowed_apart or not np.isfinite(allowed_apart), (
        f"<e, jvp d> and <vjp e, d> differ by {apart:.2e} of {total:.2e}, allowed {allowed_apart:.2e}"
    )


def _differences(
    operation: Operation, arrays: Sequence[Array], directions: Sequence[Array], ranges: Any
) -> tuple[list[Array], list[Array]]:
    """Derivative of every number along the directions, and how far two step lengths disagree about it."""

    def moved(step: float) -> Array:
        found = reference(operation, [a + step * d for a, d in zip(arrays, directions, strict=True)], ranges)
        return np.concatenate([result.ravel() for result in found if result.dtype.kind == "f"])

    with np.errstate(all="ignore"):
        coarse, fine = slope(moved, 1e-4), slope(moved, 4e-5)
        doubt = np.abs(coarse - fine)
    shapes = [result.shape for result in reference(operation, arrays, ranges) if result.dtype.kind == "f"]
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]

    def parts(numbers: Array) -> list[Array]:
        return [part.reshape(shape) for part, shape in zip(np.split(numbers, ends), shapes, strict=True)]

    return parts(fine), parts(doubt)


def _cotangent(rng: np.random.Generator, result: Array, slopes: Array) -> Array:
    """Random, so scaled that every component of a result counts alike; 0 where the result is not finite."""
    axes = tuple(range(slopes.ndim - 1))
    size = np.where(np.isfinite(slopes), np.abs(slopes), 0).max(axes, keepdims=True, initial=0)
    drawn = rng.uniform(-1, 1, result.shape) / np.maximum(size, 1e-2)
    return np.where(np.isfinite(result), drawn, 0.0)


def _check_slopes(got: Array, expected: Array, doubt: Array, result: Array, report: Report, what: str) -> None:
    """The derivative agrees with differences, but where these cross a jump or a kink."""
    axes = tuple(range(expected.ndim - 1))

    def largest(numbers: Array, kept: Array) -> Array:
        return np.where(kept, np.abs(numbers), 0).max(axes, keepdims=True, initial=0)

    finite = np.isfinite(expected) & np.isfinite(doubt) & np.isfinite(result)
    size = np.maximum(largest(expected, finite), 1e-4 * largest(result, finite))
    known = finite & (doubt <= 1e-4 * size)
    report.slopes += expected.size
    report.jumps += int((~known).sum())
    allowed = 20 * largest(doubt, known) + 1e-6 * size + 1e-9
    _assert_near(np.where(known, got, 0), np.where(known, expected, 0), allowed, what)


# ---- the smallest formula that fails -------------------------------------------------------------------------


def failure_of(group: Group, report: Report) -> str | None:
    """None, or the smallest part of the group that fails and how."""
    first = _reason(group, report)
    if first is None:
        return None
    head = group.formulas[:1] if group.weighted else ()
    smallest, reason = group, first
    for tree in group.formulas[len(head) :]:
        alone = replace(group, formulas=(*head, tree))
        found = _reason(alone, Report())
        if found is not None:
            smallest, reason = _smaller(alone, found)
            break
    lines = [f"{reason}", f"  {smallest.spec}", f"  ranges {smallest.ranges}"]
    lines += [f"  {a.inline}: {a.array.shape}" for a in group.arguments]
    return "\n".join(lines)


def _reason(group: Group, report: Report) -> str | None:
    try:
        check_group(group, report)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _smaller(group: Group, reason: str) -> tuple[Group, str]:
    """A part of a formula that fails too, as long as there is one."""
    *head, tree = group.formulas
    for child in tree.children:
        part = replace(group, formulas=(*head, child))
        found = _reason(part, Report())
        if found is not None:
            return _smaller(part, found)
    return group, reason
