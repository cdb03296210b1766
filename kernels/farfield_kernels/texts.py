"""C text of a declaration -> tree: what an operator's `code` or a reduction's `finish` means, without a compiler.

The texts are C expressions over `$names`, with `K(...)` and `KI(...)` around numbers and C's precedence. A tree is
a number, or a tuple: `("$", name)`, or an operator or function and its operands.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from typing import Any

from .functions_numpy import FUNCTIONS

Tree = float | tuple[Any, ...]

_TOKEN = re.compile(r"\s*(\$?[A-Za-z_]\w*|\d+\.?\d*(?:[eE][-+]?\d+)?|==|!=|<=|>=|&&|\|\||[-+*/<>|&?:()\[\],])")
_BINARY = ("||", "&&", "|", "&", "== !=", "< > <= >=", "+ -", "* /")
_LEVEL = {sign: level for level, signs in enumerate(_BINARY, start=1) for sign in signs.split()}


@functools.lru_cache(maxsize=4096)
def parse(text: str) -> Tree:
    """The tree of one expression."""
    text = text.strip()
    tokens, end = [], 0
    while end < len(text):
        match = _TOKEN.match(text, end)
        if match is None:
            raise ValueError(f"no C expression: {text[end:]!r} in {text!r}")
        tokens.append(match[1])
        end = match.end()
    tokens.reverse()
    tree = _choice(tokens)
    if tokens:
        raise ValueError(f"{tokens[-1]!r} is left over in {text!r}")
    return tree


def _choice(tokens: list[str]) -> Tree:
    test = _binary(tokens, 1)
    if tokens[-1:] != ["?"]:
        return test
    tokens.pop()
    chosen = _choice(tokens)
    _expect(tokens, ":")
    return ("?", test, chosen, _choice(tokens))


def _binary(tokens: list[str], level: int) -> Tree:
    left = _unary(tokens)
    while tokens and _LEVEL.get(tokens[-1], 0) >= level:
        sign = tokens.pop()
        left = (sign, left, _binary(tokens, _LEVEL[sign] + 1))
    return left


def _unary(tokens: list[str]) -> Tree:
    word = tokens.pop() if tokens else ")"
    if word == "-":
        operand = _unary(tokens)
        return -operand if isinstance(operand, float) else ("neg", operand)
    if word == "(":
        inside = _choice(tokens)
        _expect(tokens, ")")
        return inside
    if word[0].isdigit():
        return float(word)
    if word == "INF":
        return math.inf
    if tokens[-1:] == ["("]:
        tokens.pop()
        operands = [_choice(tokens)]
        while tokens[-1:] == [","]:
            tokens.pop()
            operands.append(_choice(tokens))
        _expect(tokens, ")")
        return operands[0] if word in ("K", "KI") else (word, *operands)
    if not word[-1].isalnum() and word[-1] != "_":
        raise ValueError(f"{word!r} stands where a C expression has an operand")
    name: Tree = ("$", word.removeprefix("$"))
    if tokens[-1:] == ["["]:
        tokens.pop()
        name = ("[]", name, _choice(tokens))
        _expect(tokens, "]")
    return name


def _expect(tokens: list[str], wanted: str) -> None:
    if not tokens or tokens.pop() != wanted:
        raise ValueError(f"{wanted!r} is missing in a C expression")


def evaluate(tree: Tree, names: Mapping[str, Any]) -> Any:
    """The value of a small tree, such as that of a `finish`; `names` holds what its names stand for."""
    if not isinstance(tree, tuple):
        return tree
    head, *operands = tree
    if head == "$":
        return names[operands[0]]
    values = [evaluate(operand, names) for operand in operands]
    if head == "[]":
        return values[0][:, int(values[1])]
    return FUNCTIONS[head](*values)
