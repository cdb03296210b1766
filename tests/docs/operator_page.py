"""Declarations of operators -> the tables of docs/operators.md: dims, derivatives as formulas, operations."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from types import ModuleType

from docs import derivatives
from docs.signatures import (
    SETTINGS,
    SLOW,
    Pattern,
    call,
    fitted,
    integers_of,
    operations,
    patterns,
    takes_lists,
    value_of,
)
from farfield_kernels import operators
from farfield_kernels.domains import Case
from farfield_kernels.errors import RuleError
from farfield_kernels.expr import Core, Operator
from farfield_kernels.operators import named_operators
from farfield_kernels.operators.differential import Differential

SUBJECTS: tuple[ModuleType, ...] = (
    operators.elementwise,
    operators.transcendental,
    operators.comparison,
    operators.special,
    operators.constants,
    operators.vector,
    operators.norms,
    operators.extrema,
    operators.tensors,
    operators.curves,
    operators.complex_vectors,
    operators.differential,
)
HEAD = ["| operator | is | dims | derivative | operations |", "|---|---|---|---|---|"]


def page() -> list[str]:
    """The table of contents and a table per subject."""
    of_subject = {module.__name__: [] for module in SUBJECTS}
    for name, operator in sorted(named_operators().items()):
        of_subject[_module(operator)].append((name, operator))
    contents, tables = [], []
    for module in SUBJECTS:
        title = heading(module)
        listed = of_subject[module.__name__]
        contents.append(f"- [{title}](#{anchor(title)}): {', '.join(f'`{name}`' for name, _ in listed)}")
        tables += [f"### {title}", "", *HEAD, *(row(operator) for _, operator in listed), ""]
    return [*contents, "", *tables]


def _module(operator: Operator) -> str:
    rule = operator.vjp if isinstance(operator, Core) else operator.definition  # type: ignore[attr-defined]
    return str(rule.__module__)


def heading(module: ModuleType) -> str:
    """What a module's docstring begins with, up to its first stop or colon."""
    assert module.__doc__
    return re.split(r"[.:](?:\s|$)", module.__doc__.replace("\n", " "))[0]


def anchor(title: str) -> str:
    """The link to a heading, as GitHub makes it."""
    kept = "".join(c for c in title.lower() if c.isalnum() or c in " -")
    return kept.replace(" ", "-")


def cells(*texts: str) -> str:
    """One row of a table."""
    return f"| {' | '.join(text.replace('|', chr(92) + '|') for text in texts)} |"


def row(operator: Operator) -> str:
    """One operator."""
    named = (f"`{operator.signature}`", operator.doc)
    if takes_lists(operator):
        case = operator.cases[0]
        example = Pattern(tuple(map(str, case.dims)), str(call(operator, case.dims, case.integers)[0].dim))
        lists = ", ".join(str(list(entry)) for entry in case.integers if isinstance(entry, tuple))
        texts = derivatives.gradients(operator, case.dims, case.integers, {}) or []
        return cells(*named, f"`{example}`<br>for {lists}", lines(texts), _cost_of(operator, case))
    found = patterns(operator)
    dims = lines([str(pattern) for pattern in found])
    if isinstance(operator, Differential):
        return cells(*named, dims, "of its formula", "of its formula")
    costs = list(dict.fromkeys(_cost(operator, pattern) for pattern in found))
    return cells(*named, dims, _derivative(operator, found), "<br>".join(costs))


def lines(texts: Sequence[str]) -> str:
    """One line of a cell per text."""
    return "<br>".join(f"`{text}`" for text in texts)


def _derivative(operator: Operator, found: Sequence[Pattern]) -> str:
    if not operator.arity:
        return "none"
    parts = []
    for pattern in found:
        texts, label = derivatives.general(operator, pattern), ""
        if texts is None and operator.integers:
            case = operator.cases[-1]
            texts, label = derivatives.gradients(operator, case.dims, case.integers, {}), _integers(operator, case)
        if texts is None:
            return "through its definition"
        if set(texts) == {"0"}:
            return "0"
        label = f"`{', '.join(pattern.operands)}`" if len(found) > 1 else label
        parts.append(f"for {label}:<br>{lines(texts)}" if label else lines(texts))
    return "<br>".join(parts)


def _integers(operator: Operator, case: Case) -> str:
    return ", ".join(f"{name} = {n}" for name, n in zip(operator.integers, case.integers, strict=True))


# ---- operations ----------------------------------------------------------------------------------------------


def _cost(operator: Operator, pattern: Pattern) -> str:
    """As polynomials of the dims if they hold whatever the integers, else for one case."""
    letters = list(dict.fromkeys([*pattern.letters, *(n for n in operator.integers if n in ("d", "k"))]))
    found = []
    for setting in SETTINGS:
        with contextlib.suppress(RuleError):
            found.append(_polynomials(operator, pattern, letters, setting))
    if found[0] is None or any(other != found[0] for other in found):
        case = max(operator.cases, key=lambda case: sum(case.dims))
        label = " and ".join(filter(None, [f"dims {', '.join(map(str, case.dims))}", _integers(operator, case)]))
        return f"{_cost_of(operator, case)}<br>for {label}"
    return _cost_text(found[0])


def _polynomials(
    operator: Operator, pattern: Pattern, letters: Sequence[str], setting: Mapping[str, int]
) -> dict[str, str] | None:
    counted: dict[tuple[int, ...], Counter[str]] = {}

    def count(chosen: Mapping[str, int], name: str) -> int:
        key = tuple(chosen.values())
        if key not in counted:
            full = setting | dict(chosen)
            dims = [value_of(text, full) for text in pattern.operands]
            counted[key] = operations(call(operator, dims, integers_of(operator, full))[0])
        return counted[key][name]

    texts = {name: fitted(letters, lambda chosen, name=name: count(chosen, name)) for name in ("", *SLOW)}
    if None in texts.values():
        return None
    return {name: text for name, text in texts.items() if text and text != "0"}


def _cost_of(operator: Operator, case: Case) -> str:
    """The operations of one case."""
    counted = operations(call(operator, case.dims, case.integers)[0])
    return _cost_text({name: str(n) for name, n in counted.items()})


def _cost_text(counts: Mapping[str, str]) -> str:
    parts = [f"`{text}` {name}".strip() for name, text in sorted(counts.items())]
    return ", ".join(parts) or "0"
