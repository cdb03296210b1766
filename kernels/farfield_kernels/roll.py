"""Program -> Rolls: scalar operations that repeat component after component, so that a loop can do them.

Lowering writes a vector operation once per component. Where the components differ only in which component of some
vector they read, they are one *body*, and the vector's places in a row block or a column tile follow each other:

- a *fold*: a pair value that is the sum of a body over components, such as a distance or a scalar product;
- a *family*: components of the reduced formula, or of its weights, that are one body each, such as those of
  K(x_i, y_j) b_j.

What is short, or does not repeat, stays as it was written, and so does what is dear and read elsewhere too: a loop
would compute it again. A loop needs no more registers and no longer text for a thousand components than for ten,
and a tile of several columns shares what it reads of the rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from .lower import Level, Program

Kind = Literal["scalar", "row", "col", "p"]

LEAST = 8  # components from which a loop is faster than straight text
MAX_NESTED = 40  # operations of one component, one inside the other
SUMS = {"$a + $b": 0, "$a * $b + $c": 2}  # code of a link in a chain of sums -> which operand is the sum so far
CHEAP = ("$a + $b", "$a - $b", "$a * $b", "$a * $a", "-$a")  # computed again where others read them too
MANY_FOLDS = 32  # beyond so many, each being some 300 lines of text, short ones stay straight
TRIES = 4  # ends of one chain of sums that are tried: Sum(u) + a + b ends in two terms that are no components


@dataclass(frozen=True)
class Leaf:
    """What a body reads: the same value for every component, or component k of a vector.

    Args:
        kind: `scalar`, or the level of the vector.
        value: the scalar, or the vector's first component.
    """

    kind: Kind
    value: int


@dataclass(frozen=True)
class Body:
    """The operations of one component.

    Args:
        count: how many components.
        leaves: what they read.
        steps: code and arguments: number of an earlier step, or -1 - number of a leaf.
        result: the same for the value.
    """

    count: int
    leaves: tuple[Leaf, ...]
    steps: tuple[tuple[str, tuple[int, ...]], ...]
    result: int

    def scalars(self) -> list[int]:
        """The values that are read for every component."""
        return [leaf.value for leaf in self.leaves if leaf.kind == "scalar"]


@dataclass(frozen=True)
class Fold:
    """A pair value that is the sum of a body over its components."""

    value: int
    body: Body


@dataclass(frozen=True)
class Family:
    """Components (or weights) number `first` to `first + body.count - 1`."""

    first: int
    body: Body

    @property
    def range(self) -> range:
        """The numbers."""
        return range(self.first, self.first + self.body.count)


@dataclass(frozen=True)
class Rolls:
    """All loops of a program; what is in none is written out."""

    folds: tuple[Fold, ...] = ()
    components: tuple[Family, ...] = ()
    weights: tuple[Family, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.folds or self.components or self.weights)


def places(program: Program, level: Level) -> dict[int, int]:
    """Value -> its place in the row block or column tile: all that is loaded, and what the pair level reads."""
    kept = set(program.kept(level))
    numbers = [n for n in program.at(level) if program.values[n].is_load or n in kept]
    return {number: place for place, number in enumerate(numbers)}


def roll(program: Program) -> Rolls:
    """Find the loops of a program."""
    finder = _Finder(program)
    folds = finder.folds()
    if len(folds) > MANY_FOLDS:
        folds = tuple(fold for fold in folds if fold.body.count >= 4 * LEAST)
    if program.reduction.takes_count:
        return Rolls(folds)  # a selection's step is long, its terms are few
    is_shifted = program.reduction.scheme == "shifted sum"  # its terms are kept for the chunk as they are
    ranges = {} if is_shifted else dict.fromkeys((output.first, output.count) for output in program.outputs)
    components = [finder.family(program.components, first, count) for first, count in ranges]
    tail = 1 if len(program.weights) > LEAST else 0  # softmax puts a weight of 1 before the others
    weights = finder.family(program.weights, 0, len(program.weights)) or finder.family(
        program.weights, tail, len(program.weights) - tail
    )
    rolls = Rolls(folds, tuple(found for found in components if found), (weights,) if weights else ())
    read = straight(program, rolls)
    return replace(rolls, folds=tuple(fold for fold in folds if fold.value in read))


def straight(program: Program, rolls: Rolls) -> set[int]:
    """The values that no loop computes: what the other components and weights, and the scalars of families, need.
    A fold that is read is one of them, what is inside it is not."""
    families = (*rolls.components, *rolls.weights)
    folds = {fold.value for fold in rolls.folds}
    rolled = {k for family in rolls.components for k in family.range}
    weighted = {k for family in rolls.weights for k in family.range}
    stack = [value for k, value in enumerate(program.components) if k not in rolled]
    stack += [value for k, value in enumerate(program.weights) if k not in weighted]
    stack += [n for family in families for n in family.body.scalars() if program.values[n].level == "pair"]
    found: set[int] = set()
    while stack:
        number = stack.pop()
        if number not in found:
            found.add(number)
            stack.extend(() if number in folds else program.values[number].args)
    return found


class _Finder:
    def __init__(self, program: Program) -> None:
        self.program, self.values = program, program.values
        self.places = {level: places(program, level) for level in ("row", "col")}
        self.readers = Counter(arg for value in program.values for arg in set(value.args))
        self.readers.update({*program.components, *program.weights})

    def family(self, values: Sequence[int], first: int, count: int) -> Family | None:
        if count < LEAST:
            return None
        body = self.body([(value,) for value in values[first : first + count]])
        if body is None or all(leaf.kind == "scalar" for leaf in body.leaves):
            return None
        return Family(first, body)

    def folds(self) -> tuple[Fold, ...]:
        found: list[Fold] = []
        inside: set[int] = set()
        begins = self.begins()
        tries = dict.fromkeys(begins.values(), TRIES)
        continued: set[int | None] = set()  # sums that one of several next terms was tried with
        for number in reversed(begins):
            before = self.before(number)
            if number in inside or before in continued or not tries[begins[number]]:
                continue
            tries[begins[number]] -= 1
            continued.add(before)
            links = self.chain(number)
            body = None
            # The first term may look like a link itself.
            for start in (0, 1):
                terms = self.terms(links[start:])
                body = body or (self.body(terms) if len(terms) >= LEAST else None)
            if body and not any(self.values[scalar].level == "pair" for scalar in body.scalars()):
                found.append(Fold(number, body))
                inside.update(links)
        return tuple(reversed(found))

    def before(self, number: int) -> int | None:
        """The sum that a pair value adds one more term to."""
        value = self.values[number]
        if value.level != "pair":
            return None
        place = SUMS.get(value.code)
        return None if place is None else value.args[place]

    def begins(self) -> dict[int, int]:
        """Link of a chain of sums -> the first link."""
        found: dict[int, int] = {}
        for number, value in enumerate(self.values):
            before = self.before(number)
            if before is not None:
                same = before in found and self.values[before].code == value.code
                found[number] = found[before] if same else number
        return found

    def chain(self, number: int) -> list[int]:
        """The links whose sum grows to `number`, first ones first."""
        links, code = [], self.values[number].code
        before = self.before(number)
        while before is not None and self.values[number].code == code:
            links.append(number)
            number, before = before, self.before(before)
        return links[::-1]

    def terms(self, links: Sequence[int]) -> list[tuple[int, ...]]:
        """What is added, as one value or as the two factors of a product."""
        if not links:
            return []
        if self.values[links[0]].code == "$a + $b":
            return [(self.values[links[0]].args[0],), *((self.values[link].args[1],) for link in links)]
        first = self.values[self.values[links[0]].args[2]]
        return [first.args, *(self.values[k].args[:2] for k in links)] if first.code == "$a * $b" else []

    def body(self, components: Sequence[tuple[int, ...]]) -> Body | None:
        """The one body that all components are, each given as a value or as the two factors of a product."""
        leaves: dict[Leaf, int] = {}
        steps: dict[tuple[str, tuple[int, ...]], int] = {}
        known: dict[tuple[int, ...], int | None] = {}

        def applied(code: str, arguments: Iterable[tuple[int, ...]], nested: int) -> int | None:
            args: list[int] = []
            for numbers in arguments:
                arg = joined(numbers, nested)
                if arg is None:
                    return None
                args.append(arg)
            return steps.setdefault((code, tuple(args)), len(steps))

        def joined(numbers: tuple[int, ...], nested: int) -> int | None:
            if numbers not in known:
                known[numbers] = found(numbers, nested)
            return known[numbers]

        def found(numbers: tuple[int, ...], nested: int) -> int | None:
            leaf = self.leaf(numbers)
            if leaf is not None:
                return -1 - leaves.setdefault(leaf, len(leaves))
            values = [self.values[number] for number in numbers]
            code = values[0].code
            alike = code and all(value.level == "pair" and value.code == code for value in values)
            is_own = code in CHEAP or all(self.readers[number] == 1 for number in numbers)
            if not (alike and is_own) or nested == MAX_NESTED:
                return None
            return applied(code, zip(*(value.args for value in values), strict=True), nested + 1)

        operands = list(zip(*components, strict=True))
        result = joined(operands[0], 0) if len(operands) == 1 else applied("$a * $b", operands, 0)
        return None if result is None else Body(len(components), tuple(leaves), tuple(steps), result)

    def leaf(self, numbers: tuple[int, ...]) -> Leaf | None:
        first = self.values[numbers[0]]
        if all(number == numbers[0] for number in numbers):
            return Leaf("scalar", numbers[0])
        if any(self.values[number].level != first.level for number in numbers):
            return None
        if first.level in ("row", "col"):
            at = [self.places[first.level].get(number) for number in numbers]
            follows = at[0] is not None and at == list(range(at[0], at[0] + len(at)))
            return Leaf(first.level, numbers[0]) if follows else None
        if first.level == "p" and first.position is not None:
            wanted = [(first.position, first.component + k) for k in range(len(numbers))]
            found = [(self.values[number].position, self.values[number].component) for number in numbers]
            return Leaf("p", numbers[0]) if found == wanted else None
        return None
