"""Declarations of reductions -> the tables of docs/operators.md: shapes, derivatives, states, operations."""

from __future__ import annotations

import re
from collections import Counter
from types import ModuleType

from docs.derivatives import simplest
from docs.formula_text import written
from docs.operator_page import anchor, cells, heading, lines
from docs.signatures import operations_in
from farfield_kernels.expr import Expr, Index, constant, topological, variable
from farfield_kernels.reductions import (
    REDUCTIONS,
    SPELLINGS,
    Pair,
    Reduction,
    Result,
    exponentials,
    selection,
    sums,
)

SUBJECTS: tuple[ModuleType, ...] = (sums, selection, exponentials)
HEAD = [
    "| reduction | gives, per row and component | row of the result | derivative | state | operations per term |",
    "|---|---|---|---|---|---|",
]
D, W, K = 101, 103, 107  # told apart in what they give
SIZES = {D: "D", W: "W", W + 1: "1 + W", K: "K", K * D: "K*D", 1: "1", 2: "2"}


def page() -> list[str]:
    """The table of contents and a table per subject."""
    contents, tables = [], []
    for module in SUBJECTS:
        title = heading(module)
        found = [r for r in REDUCTIONS.values() if r.reference.__module__ == module.__name__]
        contents.append(f"- [{title}](#{anchor(title)}): {', '.join(f'`{r.name}`' for r in found)}")
        tables += [f"### {title}", "", *HEAD, *(row(reduction) for reduction in found), ""]
    return [*contents, "", *tables]


def row(reduction: Reduction) -> str:
    """One reduction, its other spellings below its name."""
    spellings = [spelling for spelling, name in SPELLINGS.items() if name == reduction.name]
    return cells(
        lines([call(reduction), *spellings]),
        reduction.doc,
        "<br>".join(_shape(reduction, result) for result in reduction.results),
        _derivative(reduction),
        f"`{_state(reduction)}`",
        _operations(reduction),
    )


def call(reduction: Reduction) -> str:
    """What it takes: a formula f, K, weights w."""
    count = ", K" if reduction.takes_count else ""
    weights = {"none": "", "optional": "[, w]", "needed": ", w"}[reduction.weights]
    return f"{reduction.name}(f{count}{weights})"


def _weights(reduction: Reduction) -> int:
    """How many numbers are summed for W weights."""
    users = variable(1, W, "j") if reduction.weights == "needed" else None
    return reduction.prepare(users).dim if reduction.prepare else W


def _shape(reduction: Reduction, result: Result) -> str:
    dims = ", ".join(SIZES[size] for size in result.tail(D, K, _weights(reduction)))
    return f"`{dims}` {'int64' if result.is_index else ''}".strip()


def _state(reduction: Reduction) -> str:
    """Numbers per row."""
    of = {"": 1 if reduction.is_weighted else D, "K": K * D, "W": _weights(reduction)}
    return _total(Counter(of[field.each] for field in reduction.state))


def _total(times: Counter[int]) -> str:
    """So many times each size, as a sum."""
    extra = times.pop(W + 1, 0)  # of 1 + W
    constant_part = times.pop(1, 0) + extra
    times += Counter({W: extra})
    parts = [SIZES[size] if n == 1 else f"{n}*{SIZES[size]}" for size, n in times.items()]
    return " + ".join(([str(constant_part)] if constant_part else []) + parts)


# ---- derivatives ---------------------------------------------------------------------------------------------


def _derivative(reduction: Reduction) -> str:
    """Per term, as formulas of the term f, the weights w, the result y, its cotangent g, and what is saved."""
    saving = reduction.saving or reduction
    if saving.gradient is None:
        return "none" if all(result.is_index for result in reduction.results) else "0"
    pair, named = _pair(saving, reduction)
    names = {id(node): name for node, name in named}
    texts = []
    for gradient in filter(None, saving.gradient(pair)):
        if any(isinstance(node, Index) for node in topological([gradient])):
            at_all = "; that of the sum to every term" if reduction.is_weighted else ""
            return f"`g` goes to the selected terms{at_all}"
        texts.append(written(simplest(gradient), names, {}))
    return lines(texts) or "0"


HIDDEN = {
    "Mean": ("n",),
    "Var": ("m", "n"),
    "Std": ("m", "n"),
    "Prod": ("p", "z"),
    "SumSoftMaxWeight": ("l",),
}
"""Letters for what the gradient needs besides the result: the mean m and number n of the terms, the product p of
those that are not 0 and the number z of those that are, their log-sum-exp l."""


def _pair(saving: Reduction, shown: Reduction) -> tuple[Pair, list[tuple[Expr, str]]]:
    """What the gradient rule sees, with names; what is not shown has no cotangent."""
    f = variable(0, 1 if saving.is_weighted else D, "i")
    w = variable(1, W, "j")
    named: list[tuple[Expr, str]] = [(f, "f"), (w, "w")]
    saved, cotangents = [], []
    hidden = iter(HIDDEN.get(shown.name, ()))
    for place, result in enumerate(saving.results):
        is_shown = place < len(shown.results)
        size = result.width(f.dim, K, _weights(saving))
        node = variable(2 + place, size * (2 if result.is_index else 1), "i")
        name = "y" if is_shown else next(hidden, "k")
        named += [(node, name), *([(_number(node), name)] if result.kind == "count" else [])]
        if place in saving.saves:
            saved.append(node)
        if is_shown and not result.is_index:
            named.append((variable(10 + place, size, "i"), "g"))
            cotangents.append(named[-1][0])
        elif not result.is_index:
            cotangents.append(constant(0.0))
    return Pair(f, w if saving.is_weighted else None, tuple(saved), tuple(cotangents), "j", K), named


def _number(saved: Expr) -> Expr:
    return Pair(saved, None, (), (), "j", 1).number(saved)


# ---- operations ----------------------------------------------------------------------------------------------

_LOOP = re.compile(r"for \(int q = 0; q < \$K; q\+\+\) \{(.*)\}\s*\}?$")


def _operations(reduction: Reduction) -> str:
    loop = _LOOP.search(reduction.step)
    counted = operations_in(_LOOP.sub("", reduction.step))
    if reduction.scheme == "shifted sum":  # the comparison with the maximum, and the shifted exponential
        counted += Counter({"": 2, "exp": 1})
    sizes = Counter({1: counted.pop("")})
    if reduction.step_each:
        sizes[_weights(reduction) if reduction.is_weighted else 1] += operations_in(reduction.step_each)[""]
    parts = [f"`{_total(sizes)}`", *(f"`{n}` {name}" for name, n in sorted(counted.items()))]
    if loop:
        parts.append(f"`{operations_in(loop[1])['']}*K` more if it is selected")
    return ", ".join(parts)
