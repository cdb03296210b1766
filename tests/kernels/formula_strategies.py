"""Declarations of operators and reductions -> random calls, as a hypothesis strategy.

A `Group` is several formulas over the same arguments, reduced together, so that one kernel computes them all. The
strategy draws sizes, batch axes, arguments and their numbers, declarations, a reduction with its options, ranges,
and the formulas: see `formula_builder`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from farfield_kernels.domains import POSITIVE, Domain
from farfield_kernels.expr import Array, Axis
from farfield_kernels.operation import Reduce, Spec, read
from farfield_kernels.reductions import REDUCTIONS

from . import formula_trees as trees
from .formula_builder import DIMS, Builder
from .formula_trees import Argument, Tree

MAX_DEPTH = 8
DEPTHS = (1, 2, 2, 3, 3, 3, 4, 4, 5, 6, 7, MAX_DEPTH)
SIZES = ((1, 1), (1, 5), (5, 1), (2, 8), (8, 3), (5, 17), (17, 17), (33, 5), (3, 270), (270, 2))  # M, N
BATCHES: tuple[tuple[int, ...], ...] = ((), (), (), (2,), (2, 3))
NAMES = ("x", "y", "b", "p", "u_1", "X", "", "")
NEAR_ONE = Domain(0.9, 1.1)
FREQUENT = ("Sum", "Sum", "Sum", "Sum", "Sum", "LogSumExp", "Max", "SumSoftMaxWeight")  # drawn more often
TRUTHS = ("Any", "All", "Count")  # reductions of terms that are 0 or not


@dataclass(frozen=True, eq=False)
class Group:
    """Formulas that one call computes.

    Args:
        arguments: of the call, by position.
        formulas: what is reduced; of a weighted reduction the first is, and the others are the weights.
        weighted: whether there are weights.
        declarations: of the arguments.
        reduction, axis, options: of the call, see `Spec`.
        ranges: block-sparse ranges, or None.
    """

    arguments: tuple[Argument, ...]
    formulas: tuple[Tree, ...]
    declarations: tuple[str, ...]
    reduction: str
    weighted: bool
    axis: int | None
    options: dict[str, Any]
    ranges: tuple[Array, ...] | None

    @property
    def batch(self) -> tuple[int, ...]:
        """The batch axes of the call."""
        return np.broadcast_shapes(*(a.array.shape[: a.rows_from] for a in self.arguments))

    @property
    def sizes(self) -> tuple[int, int]:
        """M and N."""
        i, j = (next(a.array.shape[-2] for a in self.arguments if a.axis == axis) for axis in ("i", "j"))
        return i, j

    @property
    def met(self) -> Array:
        """(M, N): whether a pair is among those that are reduced."""
        met = np.ones(self.sizes, bool)
        if self.ranges is not None:
            met[:] = False
            clusters, slices, columns = self.ranges[:3]
            for (first, end), begin, stop in zip(clusters, [0, *slices[:-1]], slices, strict=True):
                for left, right in columns[begin:stop]:
                    met[first:end, left:right] = True
        return met

    @property
    def joined(self) -> tuple[Tree, Tree | None]:
        """Formula and weights of the call."""
        if self.weighted:
            return self.formulas[0], trees.joined(self.formulas[1:])
        formula = trees.joined(self.formulas)
        is_scalar = REDUCTIONS[self.reduction].is_weighted
        return (trees.call("Sum", [formula]) if is_scalar and formula.dim > 1 else formula), None

    @property
    def spec(self) -> Spec:
        """The words of the call."""
        formula, weights = self.joined
        names = dict.fromkeys(name for tree in self.formulas for name in tree.names)
        text = None if weights is None else weights.text
        variables = (*self.declarations, *names)
        return Spec(formula.text, variables, self.reduction, self.axis, formula2=text, **self.options)

    @property
    def specs(self) -> list[Spec]:
        """The call and its derivatives, if it has any, with respect to all arguments."""
        spec, wrt = self.spec, range(len(self.arguments))
        operation = read(spec.forward())
        assert isinstance(operation, Reduce)
        return [spec] if operation.reduction.gradient is None else [spec, spec.vjp(wrt), spec.jvp(wrt)]


def draw_group(size: int, number: int, reduction: str | None = None) -> Group:
    """The group of `size` formulas that belongs to a seed, always the same one, of a reduction or of any.

    The first that hypothesis draws is the simplest of all, and later ones are often changed copies of earlier
    ones: the second is taken.
    """
    found: list[Group] = []

    @seed(number)
    @settings(
        max_examples=2,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=[*HealthCheck],
    )
    @given(groups(size, reduction))
    def collect(group: Group) -> None:
        found.append(group)

    collect()
    return found[-1]


@st.composite
def groups(draw: st.DrawFn, size: int, reduction: str | None = None) -> Group:
    """Calls that reduce `size` formulas, by that reduction or by any."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = dict(zip("ij", draw(st.sampled_from(SIZES)), strict=True))
    batch = draw(st.sampled_from(BATCHES))
    axes: list[Axis] = ["i", "j", *draw(st.lists(st.sampled_from(["i", "j", "p"]), min_size=1, max_size=4))]
    names = draw(st.permutations(NAMES))
    arguments = []
    for position, axis in enumerate(axes):
        own = batch[draw(st.integers(0, len(batch))) :]
        own = tuple(1 if draw(st.booleans()) else length for length in own)
        shape = (*own, *(() if axis == "p" else (rows[axis],)), draw(st.sampled_from(DIMS)))
        array = rng.uniform(-2, 2, shape).astype(np.float32).astype(float)
        arguments.append(Argument(names[position], position, shape[-1], axis, array))
    builder = Builder(draw, arguments, rows)
    name = reduction or draw(st.sampled_from([*sorted(REDUCTIONS), *FREQUENT]))
    axis_over, rule = draw(st.sampled_from([0, 1, None])), REDUCTIONS[name].weights
    weighted = draw(st.sampled_from({"none": [False], "optional": [False, True], "needed": [True]}[rule]))
    depths = [draw(st.sampled_from(DEPTHS)) for _ in range(size)]
    formulas = [builder.formula(depth, 1 if weighted and not k else None) for k, depth in enumerate(depths)]
    return Group(
        arguments=tuple(arguments),
        formulas=tuple(_reducible(builder, name, axis_over, weighted, formulas)),
        declarations=_declarations(draw, arguments),
        reduction=name,
        weighted=weighted,
        axis=axis_over,
        options=_options(draw, name),
        ranges=_ranges(draw, rows["i"], rows["j"]) if draw(st.integers(0, 3)) == 0 else None,
    )


def _declarations(draw: st.DrawFn, arguments: Sequence[Argument]) -> tuple[str, ...]:
    """In the order of the positions, which then need not be said, or in any order."""
    in_order = draw(st.booleans())
    texts = []
    for argument in arguments:
        kind, category = argument.inline[:2], "ijp".index(argument.axis)
        if argument.name and in_order:
            texts.append(f"{argument.name} = {kind}({argument.dim})")
        elif argument.name:
            texts.append(f"{argument.name}=Var({argument.position},{argument.dim},{category})")
        else:
            texts.append(argument.inline)
    return tuple(texts if in_order else draw(st.permutations(texts)))


def _options(draw: st.DrawFn, name: str) -> dict[str, Any]:
    reduction, options = REDUCTIONS[name], {}
    if reduction.takes_count:
        options["opt_arg"] = draw(st.integers(1, 4))
    if reduction.ignoring and draw(st.booleans()):
        options["nan_policy"] = "ignore"
    if reduction.compensated and draw(st.integers(1, 4)) == 4:
        options["sum_scheme"] = "kahan_scheme"
    return options


def _ranges(draw: st.DrawFn, M: int, N: int) -> tuple[Array, ...]:
    """Clusters of rows and of columns, and which of them meet; every one meets some other."""

    def clusters(rows: int) -> Array:
        cuts = sorted(draw(st.sets(st.integers(1, rows - 1), max_size=3))) if rows > 1 else []
        return np.array(list(zip([0, *cuts], [*cuts, rows], strict=True)), np.int64)

    parts = clusters(M), clusters(N)
    drawn = [draw(st.booleans()) for _ in range(len(parts[0]) * len(parts[1]))]
    keep = np.array(drawn).reshape(len(parts[0]), len(parts[1]))
    keep[~keep.any(1), 0] = True
    keep[0, ~keep.any(0)] = True
    tables: list[Array] = []
    for own, other, met in ((*parts, keep), (*parts[::-1], keep.T)):
        tables += [own, np.cumsum(met.sum(1)), other[np.nonzero(met)[1]]]
    return tuple(tables)


def _reducible(
    builder: Builder, name: str, axis: int | None, weighted: bool, formulas: Sequence[Tree]
) -> list[Tree]:
    """Formulas that a reduction can take without overflow or logarithms of negative numbers."""
    first, *rest = formulas
    if name in TRUTHS:
        return [trees.call("LessThan", [tree, builder.formula(0, 1)]) for tree in formulas]
    if weighted:
        good = [k for k, tree in enumerate(rest) if _reduces(builder, name, axis, first, tree)]
        return [first, *(tree if k in good else builder.inside(POSITIVE, tree) for k, tree in enumerate(rest))]
    return [tree if _reduces(builder, name, axis, tree) else builder.inside(NEAR_ONE, tree) for tree in formulas]


def _reduces(builder: Builder, name: str, axis: int | None, formula: Tree, weights: Tree | None = None) -> bool:
    """Whether all numbers of the reduction are moderate."""
    reduction = REDUCTIONS[name]
    reduction = reduction.weighted or reduction if weights else reduction
    given = [tree for tree in (formula, weights) if tree is not None]
    batch = np.broadcast_shapes(*(tree.value.shape[:-3] for tree in given))
    terms = [
        np.broadcast_to(tree.value, (*batch, builder.rows["i"], builder.rows["j"], tree.dim)).swapaxes(
            -3, -2 if axis == 0 else -3
        )
        for tree in given
    ]
    flat = [values.reshape(-1, *values.shape[-2:]) for values in terms]
    if axis is None:
        flat = [values.reshape(-1, builder.rows["i"] * builder.rows["j"], values.shape[-1]) for values in terms]
    with np.errstate(all="ignore"):
        found = (reduction.saving or reduction).reference(flat[0], flat[1] if weights else None, 1)
    return all(bool(np.all(np.abs(numbers) < 1e4)) for numbers in found)
