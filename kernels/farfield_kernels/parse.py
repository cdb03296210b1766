"""Text -> Expr: variables such as `x = Vi(3)` and formulas such as `Square(p-a)*Exp(x+y)`.

The text may come from a stranger: it is read by this parser alone, never evaluated, and its length, nesting and
numbers are bounded. Precedence is that of Python: `**`, unary minus, `* /`, `+ -`, `|`, comparisons.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import NamedTuple

from .errors import FormulaError, NotYetAvailable, RuleError
from .expr import Axis, Const, Expr, apply, constant, variable
from .operators import INTERNAL, OPERATORS, PLANNED_OPERATORS, PLANNED_REDUCTIONS, named_operators
from .reductions import REDUCTIONS, Reduction, find

MAX_TEXT = 20_000  # characters; the longest formula met in the field's own papers has under 1,000
MAX_NESTING = 80  # parentheses within parentheses
MAX_VARIABLES = 64
MAX_POSITION = 63

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z_]\w*)|"
    r"(?P<sign>\*\*|==|!=|<=|>=|[-+*/|<>(),\[\]])|(?P<end>$))",
    re.ASCII,
)
_SPACE = re.compile(r"\s*", re.ASCII)
_INTEGER = re.compile(r"\s*-?\d+\s*", re.ASCII)
_VARIABLE = re.compile(r"\s*(?P<name>[A-Za-z_]\w*)\s*=\s*(?P<kind>\w+)\s*\((?P<numbers>[^()]*)\)\s*", re.ASCII)
_AXES: dict[str, Axis] = {"Vi": "i", "Vj": "j", "Pm": "p"}
_BINARY = {"==": 1, "!=": 1, "<": 1, "<=": 1, ">": 1, ">=": 1, "|": 2, "+": 3, "-": 3, "*": 4, "/": 4}
_MEANING = {"==": "Equal", "|": "Scalprod", "+": "Add", "-": "Subtract", "*": "Mult", "/": "Divide"}
_MEANING |= {"!=": "NotEqual", "<": "LessThan", "<=": "LessOrEqual", ">": "LessThan", ">=": "LessOrEqual"}
_COMPARISON, _UNARY, _POWER = 1, 5, 6


@dataclass(frozen=True)
class Variable:
    """One declared variable: argument `position` of the call, `dim` components per row of `axis`."""

    name: str
    position: int
    dim: int
    axis: Axis


def parse_variables(texts: tuple[str, ...]) -> tuple[Variable, ...]:
    """Read declarations such as `x = Vi(3)` or, with an explicit position, `x = Vi(0, 3)`.

    Args:
        texts: one declaration per argument of the call.

    Returns:
        The variables, ordered by position.

    Raises:
        FormulaError: a declaration that cannot be read, a name used twice, positions with gaps.
    """
    if len(texts) > MAX_VARIABLES:
        raise FormulaError(f"{len(texts)} variables are more than {MAX_VARIABLES}", field="variables")
    variables = [_variable(text, place) for place, text in enumerate(texts)]
    names: dict[str, int] = {}
    for place, found in enumerate(variables):
        if found.name in names:
            raise FormulaError(
                f"{found.name} is declared twice", text=texts[place], position=0, field=f"variables[{place}]"
            )
        names[found.name] = place
    variables.sort(key=lambda found: found.position)
    positions = [found.position for found in variables]
    if positions != list(range(len(variables))):
        raise FormulaError(f"positions {positions} must be 0..{len(variables) - 1}, each once", field="variables")
    return tuple(variables)


def _variable(text: str, place: int) -> Variable:
    field = f"variables[{place}]"

    def wrong(reason: str, position: int = 0) -> FormulaError:
        return FormulaError(reason, text=text, position=position, field=field)

    if len(text) > 200:
        raise wrong(f"a declaration of {len(text)} characters is longer than 200")
    match = _VARIABLE.fullmatch(text)
    if match is None:
        raise wrong("a variable is declared like 'x = Vi(3)', 'y = Vj(3)' or 'p = Pm(1)'")
    name, kind = match["name"], match["kind"]
    if kind not in _AXES:
        raise wrong(f"{kind} is not one of Vi, Vj, Pm", match.start("kind"))
    if name in named_operators() or name in PLANNED_OPERATORS:
        raise wrong(f"{name} is the name of an operator", match.start("name"))
    parts = match["numbers"].split(",")
    if not all(_INTEGER.fullmatch(part) for part in parts):
        raise wrong(f"expected integers, found {match['numbers']!r}", match.start("numbers"))
    numbers = [int(part) for part in parts]
    if len(numbers) not in (1, 2):
        raise wrong(f"{kind} takes (dim) or (position, dim)", match.start("numbers"))
    position, dim = (place, numbers[0]) if len(numbers) == 1 else numbers
    if not 0 <= position <= MAX_POSITION:
        raise wrong(f"position {position} is outside 0..{MAX_POSITION}", match.start("numbers"))
    try:
        variable(position, dim, _AXES[kind])
    except RuleError as reason:
        raise wrong(f"{kind}: {reason}", match.start("numbers")) from None
    return Variable(name, position, dim, _AXES[kind])


def parse_reduction(name: str) -> Reduction:
    """The reduction called `name`.

    Raises:
        FormulaError: no such reduction; NotYetAvailable if the language has it and this version does not.
    """
    try:
        return find(name)
    except RuleError as reason:
        shown = name[:40]
        if name.removesuffix("_Reduction") in PLANNED_REDUCTIONS:
            raise NotYetAvailable(
                f"the reduction {shown} is known but not yet available; {reason}", field="reduction"
            ) from None
        near = difflib.get_close_matches(shown, REDUCTIONS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise FormulaError(f"no reduction is called {shown!r}{hint}; {reason}", field="reduction") from None


def parse_formula(text: str, variables: tuple[Variable, ...]) -> Expr:
    """Read a formula over declared variables.

    Args:
        text: at most `MAX_TEXT` characters.
        variables: the names it may use.

    Returns:
        The graph.

    Raises:
        FormulaError: with the place in `text`, what was found and what was allowed.
    """
    if len(text) > MAX_TEXT:
        raise FormulaError(f"a formula of {len(text)} characters is longer than {MAX_TEXT}", field="formula")
    return _Parser(text, variables).parse()


@dataclass(frozen=True)
class Parsed:
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
    formula2: str | None,
    opt_arg: int | None,
) -> Parsed:
    found = parse_variables(variables)
    assert reduction is not None
    chosen = parse_reduction(reduction)
    return Parsed(
        parse_formula(formula, found),
        None if formula2 is None else parse_formula(formula2, found),
        chosen,
        axis,
        opt_arg,
        found,
    )


class _Token(NamedTuple):
    kind: str
    text: str
    position: int

    def __str__(self) -> str:
        return "the end of the formula" if self.kind == "end" else f"'{self.text[:40]}'"


class _Parser:
    """Precedence climbing over the tokens of one formula."""

    def __init__(self, text: str, variables: tuple[Variable, ...]) -> None:
        self.text = text
        self.names = {found.name: found for found in variables}
        self.nesting = 0
        self.read = 0
        self.token = self._next()

    def wrong(self, reason: str, at: _Token) -> FormulaError:
        return FormulaError(reason, text=self.text, position=at.position, field="formula")

    def _next(self) -> _Token:
        """The token from `read` on. Text after the first error is never looked at."""
        match = _TOKEN.match(self.text, self.read)
        if match is None:
            place = _SPACE.match(self.text, self.read).end()  # type: ignore[union-attr]
            found = _Token("character", self.text[place], place)
            raise self.wrong(f"unexpected character {self.text[place]!r}", found)
        kind = str(match.lastgroup)
        self.read = match.end()
        return _Token(kind, match[kind], match.start(kind))

    def take(self) -> _Token:
        taken, self.token = self.token, self._next()
        return taken

    def expect(self, sign: str, why: str) -> None:
        if self.token.text != sign or self.token.kind != "sign":
            raise self.wrong(f"expected '{sign}' {why}, found {self.token}", self.token)
        self.take()

    def parse(self) -> Expr:
        if self.token.kind == "end":
            raise self.wrong("the formula is empty", self.token)
        formula = self.expression(0)
        if self.token.kind != "end":
            raise self.wrong(f"expected an operator or the end, found {self.token}", self.token)
        return formula

    def expression(self, lowest: int) -> Expr:
        self.nesting += 1
        if self.nesting > MAX_NESTING:
            raise self.wrong(f"more than {MAX_NESTING} levels of parentheses and signs", self.token)
        left = self.operand()
        while True:
            token = self.token
            strength = _BINARY.get(token.text, 0) if token.kind == "sign" else 0
            if token.text == "**" and lowest <= _POWER:
                self.take()
                left = self.power(left, token)
            elif strength and strength >= lowest:
                self.take()
                right = self.expression(strength + 1)
                left = self.binary(token, left, right)
                following = self.token
                if strength == _COMPARISON and _BINARY.get(following.text) == _COMPARISON:
                    raise self.wrong("comparisons cannot be chained; use parentheses", following)
            else:
                self.nesting -= 1
                return left

    def binary(self, sign: _Token, left: Expr, right: Expr) -> Expr:
        operands = (right, left) if sign.text in (">", ">=") else (left, right)
        return self.call(_MEANING[sign.text], list(operands), sign)

    def power(self, base: Expr, sign: _Token) -> Expr:
        exponent = self.expression(_UNARY)
        if isinstance(exponent, Const) and exponent.value.is_integer():
            if exponent.value == 2:
                return self.call("Square", [base], sign)
            return self.call("Pow", [base, exponent], sign)
        if isinstance(exponent, Const) and exponent.value in (0.5, -0.5):
            return self.call("Sqrt" if exponent.value > 0 else "Rsqrt", [base], sign)
        return self.call("Powf", [base, exponent], sign)

    def operand(self) -> Expr:
        token = self.take()
        if token.kind == "number":
            return self.number(token)
        if token.kind == "name":
            return self.name(token)
        if token.text == "-":
            inner = self.expression(_UNARY)
            return constant(-inner.value) if isinstance(inner, Const) else self.call("Minus", [inner], token)
        if token.text == "(":
            inner = self.expression(0)
            self.expect(")", "to close the parenthesis")
            return inner
        raise self.wrong(f"expected a variable, a number, an operator or '(', found {token}", token)

    def number(self, token: _Token) -> Expr:
        try:
            return constant(float(token.text))
        except RuleError as reason:
            raise self.wrong(str(reason), token) from None

    def name(self, token: _Token) -> Expr:
        found = self.names.get(token.text)
        calls = self.token.kind == "sign" and self.token.text == "("
        if found is not None and not calls:
            return variable(found.position, found.dim, found.axis)
        if not calls:
            raise self.wrong(self.unknown(token.text, [*self.names], "variable"), token)
        self.take()
        arguments = []
        if self.token.text != ")":
            arguments.append(self.expression(0))
            while self.token.text == ",":
                self.take()
                arguments.append(self.expression(0))
        self.expect(")", f"or ',' in the arguments of {token.text[:40]}")
        return self.call(token.text, arguments, token)

    def unknown(self, name: str, known: list[str], kind: str) -> str:
        shown = name[:40]
        if kind == "variable" and name in named_operators():
            return f"{shown} is an operator: it needs arguments in parentheses"
        near = difflib.get_close_matches(shown, known, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        listed = "" if kind == "operator" else f"; the variables are {', '.join(known) or 'none'}"
        return f"no {kind} is called '{shown}'{hint}{listed}"

    def call(self, name: str, arguments: list[Expr], at: _Token) -> Expr:
        operator = None if name in INTERNAL else OPERATORS.get(name)
        if operator is None and name in PLANNED_OPERATORS:
            raise NotYetAvailable(
                f"{name} is known but not yet available in this version",
                text=self.text,
                position=at.position,
                field="formula",
            )
        if operator is None:
            raise self.wrong(self.unknown(name, [*named_operators()], "operator"), at)
        values: list[Expr | int] = list(arguments)
        for place, label in enumerate(operator.integers, operator.arity):
            if place < len(arguments):
                values[place] = self.integer(arguments[place], f"{name}: {label}", at)
        try:
            return apply(name, *values)
        except RuleError as reason:
            raise self.wrong(f"{name}: {reason}", at) from None

    def integer(self, argument: Expr, what: str, at: _Token) -> int:
        if not isinstance(argument, Const) or not argument.value.is_integer():
            raise self.wrong(f"{what} must be an integer, found {argument!r}", at)
        return int(argument.value)
