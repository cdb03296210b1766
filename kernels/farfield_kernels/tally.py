"""C text -> operations: how many of each class the text of values and of reductions is made of.

A class is one of `OPERATIONS`, or the name of a function that emitted C++ declares. What a compiler does is done
here too: equal operations are one, constants and signs cost nothing, a product that only sums read is fused with
them, `1 * a` is a, `2 * a` a sum, and `a > b ? a : b` is one instruction. What stands in braces after `if` is
rare, and not counted.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping

from .emit.functions_cpp import functions_of

OPERATIONS = {
    "fma": "a product, fused with a sum or not",
    "add": "a sum or difference on its own",
    "divide": "a quotient",
    "compare": "a comparison",
    "choose": "a choice between two values, or a logical operation",
    "largest": "the larger or smaller of two values",
    "load": "a value read from the first cache",
}

_TOKEN = re.compile(
    r"\s*(0x[0-9a-f]+|\d+\.?\d*(?:e[+-]?\d+)?[fL]*|\$?\w+|[-+*/<>=!&|^]=|&&|\|\||<<|>>|[-+*/%<>=!~&|^?:;,(){}\[\]])"
)
_ONE_EXPRESSION = re.compile(r"^HOT V \w+\(V (\w+)\) \{ return ([^{}]*); \}$", re.MULTILINE)
_TYPES = {"V", "I", "T", "IT", "auto", "const"}
_BINARY = (
    (("||",), "choose"),
    (("&&",), "choose"),
    (("|",), "choose"),
    (("^",), "choose"),
    (("&",), "choose"),
    (("==", "!="), "compare"),
    (("<", ">", "<=", ">="), "compare"),
    (("+", "-"), "add"),
    (("*",), "multiply"),
    (("/", "%"), "divide"),
)
"""Operators, those that bind least first, and what they are."""


class Tally:
    """Operations on values that are known by number, each once.

    Args:
        dtype: the type that emitted C++ computes in.
    """

    def __init__(self, dtype: str) -> None:
        self.inlined = _inlined(dtype)
        self.nodes: list[tuple[str, tuple[int, ...]]] = []
        self.numbers: dict[tuple[str, tuple[int, ...]], int] = {}
        self.constant = self.one = self.two = self.node("constant")
        self.one, self.two = self.node("constant 1"), self.node("constant 2")
        self.rare: list[int] = []  # conditions of what is not counted

    def node(self, kind: str, args: tuple[int, ...] = ()) -> int:
        """The number of an operation."""
        if args and {*args} <= {self.constant, self.one, self.two}:
            return self.constant
        if kind == "multiply" and self.one in args:
            return args[args[0] == self.one]
        if kind == "multiply" and self.two in args:
            other = args[args[0] == self.two]
            kind, args = "add", (other, other)
        if kind == "choose" and len(args) == 3:
            comparison, chosen = self.nodes[args[0]], set(args[1:])
            if comparison[0] == "order" and set(comparison[1]) == chosen:
                kind, args = "largest", tuple(sorted(chosen))
        number = self.numbers.get((kind, args))
        if number is None:
            number = self.numbers[kind, args] = len(self.nodes)
            self.nodes.append((kind, args))
        return number

    def leaf(self) -> int:
        """A new value that is there already."""
        return self.node(f"leaf {len(self.nodes)}")

    def value(self, code: str, args: Iterable[int]) -> int:
        """The value of a code over `$a`, `$b`, `$c`."""
        return _Reader(self, code, {f"${name}": arg for name, arg in zip("abc", args, strict=False)}).expression()

    def run(self, text: str, names: Mapping[str, int]) -> dict[str, int]:
        """What the names stand for after the statements of a text; names of a text's `$x` begin with `$`."""
        reader = _Reader(self, text, dict(names))
        reader.statements()
        return reader.names

    def count(self, results: Iterable[int]) -> Counter[str]:
        """The operations that the results, and what is rare, are computed with."""
        wanted = {*results, *self.rare}
        needed = self._below(wanted)
        readers: dict[int, list[int]] = {}
        for number in needed:
            for arg in self.nodes[number][1]:
                readers.setdefault(arg, []).append(number)
        fused: set[int] = set()  # sums that are one with a product
        gone: set[int] = set()
        for number in sorted(needed - wanted):
            sums = readers[number]
            if self.nodes[number][0] == "multiply" and all(
                self.nodes[by][0] == "add" and by not in fused and self.nodes[by][1].count(number) == 1
                for by in sums
            ):
                fused.update(sums)
                gone.add(number)
        found: Counter[str] = Counter()
        for number in needed - gone:
            kind = self.nodes[number][0]
            if not kind.startswith(("leaf", "constant")):
                named = {"multiply": "fma", "order": "compare"}.get(kind, kind)
                found["fma" if number in fused else named] += 1
        return found

    def _below(self, results: Iterable[int]) -> set[int]:
        found: set[int] = set()
        stack = list(results)
        while stack:
            number = stack.pop()
            if number not in found:
                found.add(number)
                stack.extend(self.nodes[number][1])
        return found


@functools.cache
def _inlined(dtype: str) -> dict[str, tuple[str, str]]:
    """Function -> its argument and its only expression, if it is no more than that, and calls no instruction."""
    found = {}
    for name, function in functions_of(dtype).items():
        match = _ONE_EXPRESSION.search(function.text)
        if match and "#if" not in function.text and "__builtin" not in match[2]:
            found[name] = (match[1], match[2])
    return found


class _Reader:
    """Statements and expressions of one text."""

    def __init__(self, tally: Tally, text: str, names: dict[str, int]) -> None:
        self.tally, self.names = tally, names
        self.tokens = _TOKEN.findall(text)
        self.at = 0

    @property
    def next(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, *wanted: str) -> str:
        """The next token, which is one of those wanted, if there are any."""
        token = self.next
        if wanted and token not in wanted:
            raise ValueError(f"'{token}' stands where one of {wanted} is needed: {' '.join(self.tokens)}")
        self.at += 1
        return token

    def statements(self) -> None:
        while self.next:
            if self.next == "if":
                self.take()
                self.tally.rare.append(self.primary())
                self.skip("{", "}")
                continue
            while self.next in _TYPES:
                self.take()
            name = self.take()
            self.take("=")
            self.names[name] = self.expression()
            self.take(";")

    def skip(self, opening: str, closing: str) -> None:
        """Pass over what is in brackets."""
        self.take(opening)
        depth = 1
        while depth:
            depth += {opening: 1, closing: -1}.get(self.take(), 0)

    def expression(self) -> int:
        condition = self.binary(0)
        if self.next != "?":
            return condition
        self.take()
        yes = self.expression()
        self.take(":")
        return self.tally.node("choose", (condition, yes, self.expression()))

    def binary(self, rank: int) -> int:
        if rank == len(_BINARY):
            return self.unary()
        operators, kind = _BINARY[rank]
        left = self.binary(rank + 1)
        while self.next in operators:
            own = "order" if self.take() in ("<", ">", "<=", ">=") else kind
            left = self.tally.node(own, (left, self.binary(rank + 1)))
        return left

    def unary(self) -> int:
        if self.next == "-":  # what makes or reads the value takes the sign along
            self.take()
            return self.unary()
        if self.next in ("!", "~"):
            self.take()
            inner = self.unary()
            turned = self.tally.nodes[inner][0] in ("compare", "order")  # a comparison of its own
            return inner if turned else self.tally.node("choose", (inner,))
        return self.primary()

    def primary(self) -> int:
        first = self.take()
        if first == "(":
            if self.next in _TYPES:  # a cast
                self.take()
                self.take(")")
                return self.unary()
            inner = self.expression()
            self.take(")")
            return inner
        if self.next == "(":
            return self.call(first)
        if self.next == "[":
            self.skip("[", "]")
            entry = f"{first}[]"
            if entry not in self.names:
                self.names[entry] = self.tally.leaf()
            return self.names[entry]
        return self.names.get(first, self.tally.constant)

    def call(self, name: str) -> int:
        if name in ("K", "KI"):
            number = "".join(self.tokens[self.at + 1 : self.at + 3])
            self.skip("(", ")")
            small = {"1)": self.tally.one, "1.0)": self.tally.one, "2)": self.tally.two, "2.0)": self.tally.two}
            return small.get(number, self.tally.constant)
        self.take("(")
        args = [self.expression()]
        while self.take(",", ")") == ",":
            args.append(self.expression())
        if name in self.tally.inlined:
            of, text = self.tally.inlined[name]
            return _Reader(self.tally, text, {of: args[0]}).expression()
        return self.tally.node(name, tuple(args))
