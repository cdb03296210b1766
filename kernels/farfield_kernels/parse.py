"""Words -> Parsed: the declarations, formulas and reduction of one call.

Declarations are arguments of the call, `x = Vi(3)`, or intermediate formulas over the names before them,
`d = SqDist(x, y)`. See `grammar` for formulas.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from .errors import FormulaError, RuleError
from .expr import MAX_NODES, Expr, bounded, variable
from .grammar import MAX_NESTING, Argument, Parser
from .operators import named_operators
from .reductions import REDUCTIONS, Reduction, find
from .scope import AXES, KINDS, MAX_POSITION, Place, Scope, Variable, declared

MAX_COUNT = 1000  # terms that KMin and KMax select
MAX_TEXT = 20_000  # characters; the longest formula met in the field's own papers has under 1,000
MAX_VARIABLES = MAX_POSITION + 1  # arguments of a call

_DECLARATION = re.compile(r"\s*(?:(?P<name>[A-Za-z_]\w*)\s*=(?!=)\s*)?(?P<rest>.*)", re.ASCII | re.DOTALL)
_ARGUMENT = re.compile(r"(?P<kind>[A-Za-z_]\w*)\s*\((?P<numbers>[^()]*)\)\s*", re.ASCII)
_INTEGER = re.compile(r"\s*-?\d{1,16}\s*", re.ASCII)

__all__ = [
    "MAX_NESTING",
    "MAX_TEXT",
    "MAX_VARIABLES",
    "Parsed",
    "Variable",
    "parse_call",
    "parse_formula",
    "parse_reduction",
    "parse_variables",
]


@dataclass(frozen=True, eq=False)
class Parsed:
    """The words of a call, read.

    Args:
        formula: what is reduced.
        formula2: the weights, of the reductions that take some.
        reduction: how.
        axis: the axis summed away, 0 (i) or 1 (j); None for both.
        opt_arg: how many terms are kept, of the reductions that keep several.
        variables: the arguments of the call, one per position from 0 on.
    """

    formula: Expr
    formula2: Expr | None
    reduction: Reduction
    axis: int | None
    opt_arg: int | None
    variables: tuple[Variable, ...]


def parse_call(
    formula: str,
    variables: tuple[str, ...],
    reduction: str | None,
    axis: int | None,
    formula2: str | None = None,
    opt_arg: int | None = None,
) -> Parsed:
    """Read all words of one call.

    Args:
        formula: a formula; if `reduction` is None, one such as `Sum_Reduction(x * y, 0)`, whose second argument
            is the axis that the result keeps: 0 for i, 1 for j.
        variables: declarations of arguments, such as `x = Vi(3)`, `x = Vi(0, 3)`, `Vi(0, 3)` or
            `x = Var(0, 3, 0)`, and of intermediate formulas, such as `d = SqDist(x, y)`.
        reduction: a name such as `Sum`.
        axis: the axis summed away, 0 (i), 1 (j) or None (both); a reduction in the formula says it itself.
        formula2: the weights, for the reductions that take some.
        opt_arg: how many terms to keep, for the reductions that keep several.

    Returns:
        The graphs and the arguments of the call.

    Raises:
        FormulaError: what is wrong, where, and what was allowed.
    """
    _check_lengths(formula, variables, formula2)
    scope = Scope()
    with bounded(MAX_NODES):
        _declare(scope, variables)
        if reduction is not None:
            _check_axis(axis)
            found = parse_reduction(reduction)
            first = _whole_formula(Parser(formula, scope, "formula"))
            second = None if formula2 is None else Parser(formula2, scope, "formula2").formula()
        else:
            for field, given in (("formula2", formula2), ("opt_arg", opt_arg)):
                if given is not None:
                    raise FormulaError(f"with reduction=None, {field} is an argument in the formula", field=field)
            found, first, axis, opt_arg, second = _written_out(Parser(formula, scope, "formula"))
    _check_options(found, opt_arg, second)
    return Parsed(first, second, found, axis, opt_arg, _arguments(scope))


def parse_variables(texts: tuple[str, ...]) -> tuple[Variable, ...]:
    """The arguments that declarations name; see `parse_call`.

    Args:
        texts: declarations of arguments and of intermediate formulas.

    Returns:
        The arguments, ordered by position.

    Raises:
        FormulaError: a declaration that cannot be read, a name used twice, positions with gaps.
    """
    _check_lengths("", texts, None)
    scope = Scope()
    with bounded(MAX_NODES):
        _declare(scope, texts)
    return _arguments(scope)


def parse_formula(text: str, variables: tuple[Variable, ...]) -> Expr:
    """Read a formula over known arguments.

    Args:
        text: at most `MAX_TEXT` characters.
        variables: the names it may use.

    Returns:
        The graph.

    Raises:
        FormulaError: with the place in `text`, what was found and what was allowed.
    """
    _check_lengths(text, (), None)
    scope = Scope(is_open=False)
    for found in variables:
        scope.names[found.name] = variable(found.position, found.dim, found.axis)
        scope.arguments[found.position] = found
    with bounded(MAX_NODES):
        return Parser(text, scope, "formula").formula()


def parse_reduction(name: str) -> Reduction:
    """The reduction called `name`.

    Raises:
        FormulaError: no such reduction.
    """
    try:
        return find(name)
    except RuleError as reason:
        shown = name[:40]
        near = difflib.get_close_matches(shown, REDUCTIONS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise FormulaError(f"no reduction is called {shown!r}{hint}; {reason}", field="reduction") from None


def _check_lengths(formula: str, variables: tuple[str, ...], formula2: str | None) -> None:
    if len(variables) > 2 * MAX_VARIABLES:
        reason = f"{len(variables)} declarations are more than {2 * MAX_VARIABLES}"
        raise FormulaError(reason, field="variables", limit=2 * MAX_VARIABLES)
    for field, text in (("formula", formula), ("formula2", formula2 or "")):
        if len(text) > MAX_TEXT:
            reason = f"a formula of {len(text)} characters is longer than {MAX_TEXT}"
            raise FormulaError(reason, field=field, limit=MAX_TEXT)
    total = sum(map(len, variables)) + len(formula) + len(formula2 or "")
    if total > MAX_TEXT:
        reason = f"formulas and declarations of {total} characters are longer than {MAX_TEXT}"
        raise FormulaError(reason, field="variables", limit=MAX_TEXT)


# ---- declarations --------------------------------------------------------------------------------------------


def _declare(scope: Scope, texts: tuple[str, ...]) -> None:
    count = 0
    declared_at: dict[int, str] = {}
    for number, text in enumerate(texts):
        field = f"variables[{number}]"
        match = _DECLARATION.fullmatch(text)
        assert match is not None
        name, start = match["name"], match.start("rest")
        if name is not None:
            _check_name(name, scope, Place(text, match.start("name"), field))
        argument = _ARGUMENT.fullmatch(match["rest"])
        if argument is not None and _declares(argument["kind"], argument["numbers"], Place(text, start, field)):
            place = Place(text, start + argument.start("numbers"), field)
            found = _argument(name or "", argument["kind"], argument["numbers"], count, place)
            if found.position in declared_at:
                reason = f"position {found.position} is already that of '{declared_at[found.position]}'"
                raise place.wrong(reason)
            declared_at[found.position] = text.strip()[:80]
            node = scope.argument(found, place)
            scope.arguments[found.position] = found
            count += 1
        elif name is not None:
            node = Parser(text, scope, field, start).formula()
        else:
            reason = "a variable is declared like 'x = Vi(3)', 'y = Vj(3)' or 'p = Pm(1)'"
            raise Place(text, 0, field).wrong(reason)
        if name is not None:
            scope.names[name] = node


def _declares(kind: str, written: str, place: Place) -> bool:
    """Whether `kind(written)` is an argument of the call rather than a formula."""
    if kind in (*AXES, "Var"):
        return True
    if kind not in named_operators() and kind not in KINDS and _numbers(written) is not None:
        raise place.wrong(f"{kind[:40]} is not one of {', '.join(AXES)}, Var")
    return False


def _numbers(written: str) -> list[int] | None:
    parts = written.split(",")
    return [int(part) for part in parts] if all(_INTEGER.fullmatch(part) for part in parts) else None


def _check_name(name: str, scope: Scope, place: Place) -> None:
    if name in scope.names:
        raise place.wrong(f"{name[:40]} is declared twice")
    if name in named_operators() or name in KINDS:
        raise place.wrong(f"{name} is the name of an operator")


def _argument(name: str, kind: str, written: str, count: int, place: Place) -> Variable:
    numbers = _numbers(written)
    if numbers is None:
        raise place.wrong(f"expected integers, found {written[:40]!r}")
    if kind == "Var":
        if len(numbers) != 3:
            raise place.wrong("Var takes (position, dim, category)")
        position, dim, *category = numbers
        return declared(name, kind, position, dim, category, place)
    if len(numbers) not in (1, 2):
        raise place.wrong(f"{kind} takes (dim) or (position, dim)")
    position, dim = (count, numbers[0]) if len(numbers) == 1 else numbers
    return declared(name, kind, position, dim, [], place)


def _arguments(scope: Scope) -> tuple[Variable, ...]:
    ordered = tuple(scope.arguments[position] for position in sorted(scope.arguments))
    for expected, found in enumerate(ordered):
        if found.position != expected:
            named = ", ".join(str(variable.position) for variable in ordered)
            raise scope.places[found.position].wrong(f"no variable has position {expected}; there are {named}")
    return ordered


# ---- reductions ----------------------------------------------------------------------------------------------


def _check_axis(axis: int | None) -> None:
    if axis not in (0, 1, None):
        raise FormulaError(f"axis is 0 (over i), 1 (over j) or None (over both), got {axis}", field="axis")


def _signature(reduction: Reduction) -> str:
    count = ", K" if reduction.takes_count else ""
    weights = {"none": "", "optional": "[, formula2]", "needed": ", formula2"}[reduction.weights]
    return f"{reduction.name}_Reduction(formula{count}, 0 or 1{weights})"


def _whole_formula(parser: Parser) -> Expr:
    start = parser.token
    if start.text.endswith("_Reduction") and start.text not in parser.scope.names:
        reason = (
            f"the formula names a reduction itself, {start.text[:40]}: pass reduction=None, or the formula alone"
        )
        raise parser.wrong(reason, start)
    return parser.formula()


def _written_out(parser: Parser) -> tuple[Reduction, Expr, int, int | None, Expr | None]:
    """Reduction, formula, axis, opt_arg and formula2 of `<Op>_Reduction(formula[, opt_arg], cat[, formula2])`."""
    start = parser.token
    found = parser.reduction()
    if found is None:
        listed = ", ".join(f"{name}_Reduction" for name in sorted(REDUCTIONS))
        raise parser.wrong(
            "without a reduction the formula is one itself, such as Sum_Reduction(formula, 0) for a result per i "
            f"and Sum_Reduction(formula, 1) for one per j; there are {listed}",
            start,
        )
    name, arguments = found
    try:
        reduction = parse_reduction(name.text)
    except FormulaError as error:
        raise type(error)(error.message, text=parser.text, position=name.position, field="formula") from None
    least = 2 + reduction.takes_count + (reduction.weights == "needed")
    most = least + (reduction.weights == "optional")
    if not least <= len(arguments) <= most:
        raise parser.wrong(f"write {_signature(reduction)}; there are {len(arguments)} arguments", name)
    rest = list(arguments)
    formula = _formula(parser, rest.pop(0))
    opt_arg = None
    if reduction.takes_count:
        count = rest.pop(0)
        opt_arg = parser.integer(count.value, f"{name.text}: K", count.at)
    kept = rest.pop(0)
    category = parser.integer(kept.value, f"{name.text}: the axis that is kept", kept.at)
    if category not in (0, 1):
        raise parser.wrong(f"a result is kept per i (0) or per j (1), got {category}", kept.at)
    return reduction, formula, 1 - category, opt_arg, _formula(parser, rest.pop(0)) if rest else None


def _formula(parser: Parser, argument: Argument) -> Expr:
    if isinstance(argument.value, tuple):
        raise parser.wrong("a formula is needed, not a list", argument.at)
    return argument.value


def _check_options(reduction: Reduction, opt_arg: int | None, formula2: Expr | None) -> None:
    name = reduction.name
    if reduction.takes_count:
        if opt_arg is None:
            raise FormulaError(f"{name} needs opt_arg, the number of terms to keep", field="opt_arg")
        if not 1 <= opt_arg <= MAX_COUNT:
            raise FormulaError(f"opt_arg is {opt_arg}, {name} keeps 1..{MAX_COUNT} terms", field="opt_arg")
    elif opt_arg is not None:
        raise FormulaError(f"{name} takes no opt_arg, got {opt_arg}", field="opt_arg")
    if formula2 is None and reduction.weights == "needed":
        raise FormulaError(f"{name} needs formula2, the weights", field="formula2")
    if formula2 is not None and reduction.weights == "none":
        raise FormulaError(f"{name} takes no formula2", field="formula2")
