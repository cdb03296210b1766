"""Text, names -> Expr: the grammar of formulas.

The text may come from a stranger: it is read by this parser alone, never evaluated, and its length, nesting and
numbers are bounded. Precedence is that of Python: `**`, unary minus, `* /`, `+ -`, `|`, comparisons.
"""

from __future__ import annotations

import difflib
import re
from typing import NamedTuple

import numpy as np

from .errors import FormulaError, RuleError
from .expr import Const, Expr, Operator, Var, apply, constant, spend, topological
from .operators import INTERNAL, OPERATORS, named_operators
from .operators.differential import Differential
from .scope import KINDS, Place, Scope, Variable, declared, named

MAX_NESTING = 80  # parentheses within parentheses
MAX_LIST = 12  # entries of a list; a tensor has at most as many axes
MAX_INTEGER = 2**53  # up to here every integer is exact

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z_]\w*)|"
    r"(?P<sign>\*\*|==|!=|<=|>=|[-+*/|<>(),\[\]])|(?P<end>$))",
    re.ASCII,
)
_SPACE = re.compile(r"\s*", re.ASCII)
_BINARY = {"==": 1, "!=": 1, "<": 1, "<=": 1, ">": 1, ">=": 1, "|": 2, "+": 3, "-": 3, "*": 4, "/": 4}
_MEANING = {"==": "Equal", "|": "Scalprod", "+": "Add", "-": "Subtract", "*": "Mult", "/": "Divide"}
_MEANING |= {"!=": "NotEqual", "<": "LessThan", "<=": "LessOrEqual", ">": "LessThan", ">=": "LessOrEqual"}
_COMPARISON, _UNARY, _POWER = 1, 5, 6
_CLOSING = {"(": ")", "[": "]"}


class Token(NamedTuple):
    """One word of a formula: `kind` is number, name, sign or end."""

    kind: str
    text: str
    position: int

    def __str__(self) -> str:
        return "the end of the formula" if self.kind == "end" else f"'{self.text[:40]}'"


Value = Expr | tuple[Expr, ...]


class Argument(NamedTuple):
    """One argument of a call, and its first token."""

    value: Value
    at: Token


class Parser:
    """Precedence climbing over the tokens of one formula, which starts at character `start` of `text`."""

    def __init__(self, text: str, scope: Scope, field: str, start: int = 0) -> None:
        self.text = text
        self.scope = scope
        self.field = field
        self.nesting = 0
        self.read = start
        self.token = self._next()

    def wrong(self, reason: str, at: Token, limit: int | None = None) -> FormulaError:
        """An error with its caret under `at`; `limit` if that was exceeded."""
        return self._place(at).wrong(reason, limit)

    def _place(self, at: Token) -> Place:
        """Where a token stands."""
        return Place(self.text, at.position, self.field)

    def _next(self) -> Token:
        """The token from `read` on. Text after the first error is never looked at."""
        match = _TOKEN.match(self.text, self.read)
        if match is None:
            place = _SPACE.match(self.text, self.read).end()  # type: ignore[union-attr]
            found = Token("character", self.text[place], place)
            raise self.wrong(f"unexpected character {self.text[place]!r}", found)
        kind = str(match.lastgroup)
        self.read = match.end()
        return Token(kind, match[kind], match.start(kind))

    def _take(self) -> Token:
        """The current token; the next one becomes current."""
        taken, self.token = self.token, self._next()
        return taken

    def _at_sign(self, sign: str) -> bool:
        """Whether the current token is that sign."""
        return self.token.kind == "sign" and self.token.text == sign

    def _expect(self, sign: str, why: str) -> None:
        """Take `sign`."""
        if not self._at_sign(sign):
            raise self.wrong(f"expected '{sign}' {why}, found {self.token}", self.token)
        self._take()

    def formula(self) -> Expr:
        """The whole text as a formula."""
        if self.token.kind == "end":
            raise self.wrong("the formula is empty", self.token)
        formula = self._expression(0)
        self._end()
        return formula

    def reduction(self) -> tuple[Token, list[Argument]] | None:
        """The whole text as `<Op>_Reduction(...)`, or None if it does not begin like that."""
        name = self.token
        if not name.text.endswith("_Reduction") or name.text in self.scope.names:
            return None
        self._take()
        if not self._at_sign("("):
            raise self.wrong(f"expected '(' and the arguments of {name.text[:40]}, found {self.token}", self.token)
        arguments = self._arguments(name.text)
        self._end()
        return name, arguments

    def _end(self) -> None:
        """Nothing may follow."""
        if self.token.kind != "end":
            raise self.wrong(f"expected an operator or the end, found {self.token}", self.token)

    def _expression(self, lowest: int) -> Expr:
        """A formula of operators at least as strong as `lowest`."""
        at = self.token
        found = self._value(lowest)
        if isinstance(found, tuple):
            raise self.wrong("a list such as (2, 3) stands only where an operator takes one", at)
        return found

    def _value(self, lowest: int) -> Value:
        """A formula, or a list in parentheses or brackets."""
        self.nesting += 1
        if self.nesting > MAX_NESTING:
            reason = f"more than {MAX_NESTING} levels of parentheses and signs"
            raise self.wrong(reason, self.token, MAX_NESTING)
        left = self._operand()
        while not isinstance(left, tuple):
            token = self.token
            strength = _BINARY.get(token.text, 0) if token.kind == "sign" else 0
            if token.text == "**" and lowest <= _POWER:
                self._take()
                left = self._power(left, token)
            elif strength and strength >= lowest:
                self._take()
                right = self._expression(strength + 1)
                left = self._binary(token, left, right)
                following = self.token
                if strength == _COMPARISON and _BINARY.get(following.text) == _COMPARISON:
                    raise self.wrong("comparisons cannot be chained; use parentheses", following)
            else:
                break
        self.nesting -= 1
        return left

    def _binary(self, sign: Token, left: Expr, right: Expr) -> Expr:
        operands = (right, left) if sign.text in (">", ">=") else (left, right)
        return self._apply(_MEANING[sign.text], list(operands), sign)

    def _power(self, base: Expr, sign: Token) -> Expr:
        exponent = self._expression(_UNARY)
        number = self._constant(exponent, sign)
        if number is None:
            return self._apply("Powf", [base, exponent], sign)
        if number.is_integer():
            if number == 2:
                return self._apply("Square", [base], sign)
            return self._apply("Pow", [base, self.integer(exponent, "Pow: n", sign)], sign)
        if number in (0.5, -0.5):
            return self._apply("Sqrt" if number > 0 else "Rsqrt", [base], sign)
        return self._apply("Powf", [base, exponent], sign)

    def _operand(self) -> Value:
        token = self._take()
        if token.kind == "number":
            return self._number(token)
        if token.kind == "name":
            return self._name(token)
        if token.text == "-":
            inner = self._expression(_UNARY)
            return constant(-inner.value) if isinstance(inner, Const) else self._apply("Minus", [inner], token)
        if token.text == "[":
            return self._list(token, [])
        if token.text == "(":
            if self._at_sign(")"):
                return self._list(token, [])
            inner = self._expression(0)
            if self._at_sign(","):
                return self._list(token, [inner])
            self._expect(")", "to close the parenthesis")
            return inner
        raise self.wrong(f"expected a variable, a number, an operator or '(', found {token}", token)

    def _list(self, opening: Token, entries: list[Expr]) -> tuple[Expr, ...]:
        """The rest of a list, up to and with the sign that closes it; a comma may stand at its end."""
        closing = _CLOSING[opening.text]
        while not self._at_sign(closing):
            if entries:
                self._expect(",", f"or '{closing}' in a list")
                if self._at_sign(closing):
                    break
            if len(entries) == MAX_LIST:
                raise self.wrong(f"a list has at most {MAX_LIST} entries", self.token)
            entries.append(self._expression(0))
        self._take()
        return tuple(entries)

    def _number(self, token: Token) -> Expr:
        try:
            return constant(float(token.text))
        except RuleError as reason:
            raise self.wrong(str(reason), token, reason.limit) from None

    def _name(self, token: Token) -> Value:
        if not self._at_sign("("):
            found = self.scope.names.get(token.text)
            if found is None:
                raise self.wrong(self._unknown(token.text, [*self.scope.names], "variable"), token)
            return found
        if token.text == "Ind":
            return self._list(self._take(), [])
        if token.text.endswith("_Reduction"):
            raise self.wrong(f"{token.text[:40]} stands only as the whole formula", token)
        arguments = self._arguments(token.text)
        if token.text in KINDS:
            return self._variable(token, arguments)
        operator = None if token.text in INTERNAL else OPERATORS.get(token.text)
        if operator is None:
            raise self.wrong(self._unknown(token.text, [*named_operators(), *KINDS], "operator"), token)
        return self._call(operator, arguments, token)

    def _arguments(self, name: str) -> list[Argument]:
        """`(...)` after a name."""
        self._take()
        arguments: list[Argument] = []
        while not (self._at_sign(")") and not arguments):
            first = self.token
            arguments.append(Argument(self._value(0), first))
            if not self._at_sign(","):
                break
            self._take()
        self._expect(")", f"or ',' in the arguments of {name[:40]}")
        return arguments

    def _unknown(self, name: str, known: list[str], kind: str) -> str:
        shown = name[:40]
        if kind == "variable" and name in (*named_operators(), *KINDS):
            return f"{shown} is an operator: it needs arguments in parentheses"
        near = difflib.get_close_matches(shown, known, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        listed = "" if kind == "operator" else f"; the variables are {', '.join(known) or 'none'}"
        return f"no {kind} is called '{shown}'{hint}{listed}"

    def _variable(self, token: Token, arguments: list[Argument]) -> Expr:
        """`Vi(position, dim)` or `Var(position, dim, category)` within a formula."""
        names = ["position", "dim", "category"] if token.text == "Var" else ["position", "dim"]
        if len(arguments) != len(names):
            raise self.wrong(f"in a formula {token.text} takes ({', '.join(names)})", token)
        position, dim, *category = (
            self.integer(argument.value, f"{token.text}: {name}", argument.at)
            for name, argument in zip(names, arguments, strict=True)
        )
        place = self._place(token)
        return self.scope.argument(declared("", token.text, position, dim, category, place), place)

    def _call(self, operator: Operator, arguments: list[Argument], at: Token) -> Expr:
        """An operator applied to what stands in its parentheses."""
        values: list[object] = []
        for place, (value, token) in enumerate(arguments):
            if place < operator.arity:
                if isinstance(value, tuple) and place not in operator.several:
                    raise self.wrong(f"{operator.name}: a formula is needed, not a list", token)
                values.append(value)
            elif place < operator.arity + len(operator.integers):
                values.append(self._integers(value, operator.name, operator.integers[place - operator.arity], at))
            else:
                values.append(value)
        result = self._apply(operator.name, values, at)
        if isinstance(operator, Differential):
            self._admit(result, at)
        return result

    def _admit(self, result: Expr, at: Token) -> None:
        """Make arguments of the variables that a derivative brought in."""
        for node in topological([result]):
            if isinstance(node, Var):
                found = Variable("", node.position, node.dim, node.axis)
                self.scope.argument(named(found), self._place(at))

    def _apply(self, name: str, values: list[object] | list[Expr], at: Token) -> Expr:
        try:
            return apply(name, *values)
        except RuleError as reason:
            raise self.wrong(f"{name}: {reason}", at, reason.limit) from None

    def _constant(self, formula: Expr, at: Token) -> float | None:
        try:
            return constant_value(formula)
        except RuleError as reason:
            raise self.wrong(str(reason), at, reason.limit) from None

    def _integers(self, value: Value, operator: str, label: str, at: Token) -> int | tuple[int, ...]:
        """The integer, or the list of integers, that an operator takes as `label`."""
        what = f"{operator}: {label.strip('[]')}"
        if label.startswith("["):
            if not isinstance(value, tuple):
                raise self.wrong(f"{what} must be a list such as [2, 3], found {value!r}", at)
            return tuple(self.integer(entry, what, at) for entry in value)
        return self.integer(value, what, at)

    def integer(self, value: Value, what: str, at: Token) -> int:
        """The integer that a constant formula is."""
        number = None if isinstance(value, tuple) else self._constant(value, at)
        if number is None or not number.is_integer():
            found = "a list" if isinstance(value, tuple) else repr(value)
            raise self.wrong(f"{what} must be an integer, found {found}", at)
        if abs(number) > MAX_INTEGER:
            raise self.wrong(f"{what} is {number:g}, which is outside -2**53..2**53", at)
        return int(number)


def constant_value(formula: Expr) -> float | None:
    """The value of a scalar formula of constants alone, in float64; None if it is none or not finite."""
    if formula.axes or formula.dim != 1:
        return None
    values: dict[int, np.float64] = {}
    for node in topological([formula]):
        if isinstance(node, Const):
            values[id(node)] = np.float64(node.value)
            continue
        if node.op is None or node.dim != 1:
            return None
        spend(4)  # takes as long as making four nodes
        operands = [np.array([values[id(operand)]]) for operand in node.operands]
        with np.errstate(all="ignore"):
            values[id(node)] = np.float64(np.asarray(node.op.reference(*operands, *node.params)).item())
    found = float(values[id(formula)])
    return found if np.isfinite(found) else None
