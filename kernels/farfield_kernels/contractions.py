"""Program -> Contracted: the products of matrices in it, which tensor cores make, and what is left.

The first ones are scalar products and squared distances of rows and columns; all else of the formula is done to
each of their elements. The remaining program has a value of level pair, read rather than computed, in the place
of each. A second product is the sum over columns of such a value times the components of a vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from .lower import Program, Value
from .reductions import SUM
from .roll import Body, Leaf, Rolls, roll

LEAST = 16  # components: one step of the tensor cores
MOST = 1024  # components whose centre stays in shared memory
MOST_CONTRACTIONS = 4  # whose elements stay in registers
MOST_COMPONENTS = 8  # of the reduced formula, and so many weights, besides those of a second product
LEAST_ALONE = 32  # components of a second product without a first one: fewer are as fast one by one
MOST_VALUES = 64  # of pairs that are left: each is written out for every element that a thread holds
MOST_KEPT = 128  # values of rows that are left
PRODUCT = (("$a * $b", (-1, -2)),)
DISTANCES = (
    (("$a - $b", (-1, -2)), ("$a * $a", (0,))),
    (("$a - $b", (-1, -2)), ("$a * $b", (0, 0))),
)
EXPONENTIALS = ("exp($a)", "exp2($a)")


@dataclass(frozen=True)
class Vector:
    """Components `first` to `first + dim - 1` of the argument at a position, which has rows of `width`."""

    position: int
    first: int
    width: int


@dataclass(frozen=True)
class Contraction:
    """One product of matrices.

    Args:
        kind: `product` is a scalar product, `distance` a squared distance.
        value: its number in the remaining program.
        dim: components of both vectors.
        row, col: the vectors.
        factor: a value whose product with this one is an exponent, and read by nothing else: an error that is
            small in it is small in the result.
    """

    kind: Literal["product", "distance"]
    value: int
    dim: int
    row: Vector
    col: Vector
    factor: int | None = None


@dataclass(frozen=True)
class Group:
    """Components `first` to `first + count - 1` of a sum, or weights, that are those of the vector `col`.

    Those of a sum are multiplied with one value, the first component of the remaining program.
    """

    first: int
    count: int
    col: Vector


@dataclass(frozen=True)
class Contracted:
    """A program without its products of matrices.

    Args:
        rest: all else, which reads the contractions; a group's components or weights are not in it.
        contractions: in the order of their values.
        group: the second product, if there is one.
    """

    rest: Program
    contractions: tuple[Contraction, ...]
    group: Group | None = None


def contracted(program: Program) -> Contracted | None:
    """The products of matrices of a program, if there are some and tensor cores may compute it."""
    if not _takes_any_order(program):
        return None
    rolls = roll(program)
    group, left = _grouped(program, rolls)
    if len(left.components) > MOST_COMPONENTS or len(left.weights) > MOST_COMPONENTS:
        return None
    found: dict[int, Contraction] = {}
    for fold in rolls.folds:
        contraction = _contraction(program, fold.value, fold.body)
        if contraction:
            found[fold.value] = contraction
    is_one = found or (group and group.count >= LEAST_ALONE)
    if not is_one or len(found) > MOST_CONTRACTIONS:
        return None
    rest, numbers = _without(left, list(found))
    if len(rest.at("pair")) > MOST_VALUES or len(rest.at("row")) + len(rest.at("col")) > MOST_KEPT:
        return None
    own = (replace(found[value], value=numbers[value]) for value in found)
    return Contracted(rest, tuple(replace(one, factor=_factor(rest, one.value)) for one in own), group)


def _grouped(program: Program, rolls: Rolls) -> tuple[Group | None, Program]:
    """The second product, and the program without its components or weights."""
    is_weighted = bool(program.weights)
    if program.over_rows or not (
        program.reduction is SUM or (is_weighted and program.reduction.scheme == "shifted sum")
    ):
        return None, program
    groups: list[tuple[Group, tuple[int, ...]]] = []
    for family in rolls.weights if is_weighted else rolls.components:
        found = _factors(family.body)
        col = found and _vector(program, found[0], family.body.count)
        if found and col and family.body.count >= LEAST and bool(found[1]) != is_weighted:
            groups.append((Group(family.first, family.body.count, col), found[1]))
    if not groups:
        return None, program
    group, scalars = max(groups, key=lambda found: found[0].count)

    def others(values: tuple[int, ...]) -> tuple[int, ...]:
        return (*values[: group.first], *values[group.first + group.count :])

    if is_weighted:
        return group, replace(program, weights=others(program.weights))
    of_pairs = sorted(scalars, key=lambda number: program.values[number].level != "pair")
    if program.values[of_pairs[0]].level != "pair":
        return None, program
    values, factor = list(program.values), of_pairs[0]
    for other in of_pairs[1:]:
        values.append(Value("pair", "$a * $b", (factor, other)))
        factor = len(values) - 1
    components = (factor, *others(program.components))
    return group, replace(program, values=tuple(values), components=components)


def _factors(body: Body) -> tuple[Leaf, tuple[int, ...]] | None:
    """A product of one component of a column's vector and scalars, if a body is that."""
    found: list[int] = []
    vectors = [leaf for leaf in body.leaves if leaf.kind != "scalar"]
    for code, args in body.steps:
        if code != "$a * $b":
            return None
        found += [-1 - arg for arg in args if arg < 0]
    is_used_once = len(body.steps) == 0 or len(found) == len(body.steps) + 1
    if len(vectors) != 1 or vectors[0].kind != "col" or not is_used_once:
        return None
    (place,) = (k for k, leaf in enumerate(body.leaves) if leaf.kind == "col")
    if body.steps and (found.count(place) != 1 or body.result != len(body.steps) - 1):
        return None
    return vectors[0], tuple(body.leaves[k].value for k in found if k != place)


def _takes_any_order(program: Program) -> bool:
    """Columns are not taken in one after the other."""
    reduction = program.reduction
    in_order = any(field.kind != "number" or field.each == "K" for field in reduction.state)
    return not (in_order or "$c" in reduction.step or reduction.is_exact or reduction.scheme == "selection")


def _contraction(program: Program, value: int, body: Body) -> Contraction | None:
    leaves = {leaf.kind: leaf for leaf in body.leaves}
    is_product = body.steps == PRODUCT
    is_known = (is_product or body.steps in DISTANCES) and body.result == len(body.steps) - 1
    if not is_known or leaves.keys() != {"row", "col"} or not LEAST <= body.count <= MOST:
        return None
    vectors = [_vector(program, leaves[level], body.count) for level in ("row", "col")]
    if vectors[0] is None or vectors[1] is None:
        return None
    return Contraction("product" if is_product else "distance", value, body.count, vectors[0], vectors[1])


def _vector(program: Program, leaf: Leaf, count: int) -> Vector | None:
    """What a leaf reads, if it is in memory."""
    values = program.values[leaf.value :]
    first = values[0]
    own = [value for value in values if value.level == first.level and value.position == first.position]
    follows = [first.component + k for k in range(count)]
    if first.position is None or [value.component for value in own[:count]] != follows:
        return None
    return Vector(first.position, first.component, dict(program.widths)[first.position])


def _without(program: Program, contractions: Sequence[int]) -> tuple[Program, dict[int, int]]:
    """The program that reads the values of contractions, and its number of each value."""
    needed: set[int] = set()
    stack = [*program.components, *program.weights]
    while stack:
        number = stack.pop()
        if number not in needed:
            needed.add(number)
            stack.extend(() if number in contractions else program.values[number].args)
    numbers = {old: new for new, old in enumerate(sorted(needed))}
    values = []
    for old in numbers:
        value = program.values[old]
        own = replace(value, args=tuple(numbers[arg] for arg in value.args if old not in contractions))
        values.append(Value("pair", component=contractions.index(old)) if old in contractions else own)
    components, weights = ([numbers[n] for n in part] for part in (program.components, program.weights))
    rest = replace(program, values=tuple(values), components=tuple(components), weights=tuple(weights))
    return rest, numbers


def _factor(program: Program, value: int) -> int | None:
    """See `Contraction`."""
    values = program.values
    results = {*program.components, *program.weights}

    def readers(number: int) -> list[int]:
        return [n for n, other in enumerate(values) if number in other.args]

    products = readers(value)
    if value in results or len(products) != 1 or values[products[0]].code != "$a * $b":
        return None
    (product,) = products
    is_term = product in results and program.reduction.scheme == "shifted sum" and product not in program.weights
    if product in results and not is_term:
        return None
    if not all(values[n].code in EXPONENTIALS for n in readers(product)):
        return None
    args = values[product].args
    factor = args[0] if args[1] == value else args[1]
    return factor if values[factor].level in ("constant", "p", "row") else None
