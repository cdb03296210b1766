"""Operator -> the dims it takes, found by calling it; formula -> its scalar operations, counted by lowering."""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType

import numpy as np

from farfield_kernels.errors import RuleError
from farfield_kernels.expr import Expr, Operator, apply, variable
from farfield_kernels.lower import lower
from farfield_kernels.operators.differential import Differential
from farfield_kernels.reductions import SUM
from farfield_kernels.rewrite import rewrite
from farfield_kernels.terms import Term

OPERANDS = ("1", "E", "D", "D*E", "D*D", "2", "2*D", "3", "D*d")
OF_THREE = ("1", "E", "D", "D*D")  # where there are three or more operands
RESULTS = ("1", "D", "E", "D*E", "D + E", "2*D", "d", "n", "D - k - 1", "2", "3")
DERIVED = ("E", "D", "1")  # of a derivative's formula, variable and others

# Numbers that stand for the letters, told apart by what they give. No setting suits every operator: what Extract
# reads must lie within the vector, what ExtractT writes around it.
SETTINGS: tuple[dict[str, int], ...] = tuple(
    {"D": D, "E": E, "d": d, "n": n, "m": m, "start": m, "k": k, "p": 3, "q": 5, "low": -1, "high": 1}
    for D, E, d, n, m, k in (
        (11, 13, 4, 6, 2, 2),
        (17, 19, 6, 8, 1, 3),
        (5, 7, 12, 14, 2, 1),
        (7, 5, 16, 18, 1, 2),
    )
)


@dataclass(frozen=True)
class Pattern:
    """Dims of operands and of the result, as products and sums of letters."""

    operands: tuple[str, ...]
    result: str

    def __str__(self) -> str:
        return f"{', '.join(self.operands)} -> {self.result}".strip()

    @property
    def letters(self) -> list[str]:
        """The dims that are free."""
        return sorted({letter for text in self.operands for letter in re.findall("[DEd]", text)})


def value_of(text: str, setting: Mapping[str, int]) -> int:
    """The number that a product or sum of letters is."""
    return int(eval(_compiled(text), {}, dict(setting)))  # our own words


@functools.cache
def _compiled(text: str) -> CodeType:
    return compile(text, text, "eval")


def integers_of(operator: Operator, setting: Mapping[str, int]) -> tuple[int, ...]:
    """The integer arguments of a call."""
    return tuple(setting[name] for name in operator.integers)


def takes_lists(operator: Operator) -> bool:
    """Whether it takes lists of integers, which its dims depend on."""
    return any(name.startswith("[") for name in operator.integers)


def call(operator: Operator, dims: Sequence[int], integers: Sequence[object]) -> tuple[Expr, list[Expr]]:
    """The operator on variables of those dims, and these; a derivative gets a formula linear in its variable.

    Raises:
        RuleError: the dims do not fit.
    """
    operands: list[Expr] = [variable(place, dim, "i") for place, dim in enumerate(dims)]
    if isinstance(operator, Differential):
        matrix, v = variable(len(dims), dims[0] * dims[1], "i"), operands[1]
        formula = apply("MatVecMult", matrix, v) + apply("Sum", v)
        return apply(operator.name, formula, v, *operands[2:]), operands
    return apply(operator.name, *operands, *integers), operands


@functools.cache
def patterns(operator: Operator) -> tuple[Pattern, ...]:
    """The dims that an operator takes, without special cases of others and what broadcasting explains."""
    candidates = OF_THREE if operator.arity > 2 else OPERANDS
    if isinstance(operator, Differential):
        candidates = DERIVED
    if "d" not in operator.integers:
        candidates = tuple(text for text in candidates if "d" not in text)
    found = []
    for operands in itertools.product(candidates, repeat=operator.arity):
        letters = re.findall("[DE]", "".join(operands))
        if "E" in letters and letters[0] != "D":
            continue
        results = [(setting, _dim(operator, operands, setting)) for setting in SETTINGS]
        known = [(setting, dim) for setting, dim in results if dim is not None]
        if len(known) >= 2:
            fitting = [text for text in RESULTS if all(value_of(text, setting) == dim for setting, dim in known)]
            found += [Pattern(operands, text) for text in fitting[:1]]
    general = [
        p
        for place, p in enumerate(found)
        if not any(
            q != p and _covers(q, p) and (other < place or not _covers(p, q)) for other, q in enumerate(found)
        )
    ]
    return tuple(p for p in general if not any(q != p and _repeats(q, p) for q in general))


def _dim(operator: Operator, operands: Sequence[str], setting: Mapping[str, int]) -> int | None:
    try:
        dims = [value_of(text, setting) for text in operands]
        return call(operator, dims, integers_of(operator, setting))[0].dim
    except RuleError:
        return None


def _covers(general: Pattern, special: Pattern) -> bool:
    """Whether other dims for D and E make the one of the other."""
    used = "".join(general.operands)
    for D, E in itertools.product(OPERANDS if "D" in used else ("D",), OPERANDS if "E" in used else ("E",)):
        if all(
            value_of(text, setting | {"D": value_of(D, setting), "E": value_of(E, setting)})
            == value_of(own, setting)
            for setting in SETTINGS
            for text, own in zip(general.operands, special.operands, strict=True)
        ):
            return True
    return False


def _repeats(wide: Pattern, narrow: Pattern) -> bool:
    """Whether scalars, complex ones too, stand in place of vectors of the other."""
    vectors = {"1": ("D", "E"), "2": ("2*D",)}
    pairs = zip(wide.operands, narrow.operands, strict=True)
    return wide.result == narrow.result and all(w == n or w in vectors.get(n, ()) for w, n in pairs)


# ---- operations ----------------------------------------------------------------------------------------------

SLOW = tuple(
    "exp expm1 exp2 log log1p log2 log10 sin cos tan asin acos atan atan2 sinh cosh tanh erf erfc lgamma pow "
    "cbrt hypot".split()
)
"""Functions that cost much more than an addition."""
_COUNTED = re.compile(r"==|!=|<=|>=|[-+*/<>?&|]|\b(?:fabs|floor|ceil|rint|trunc|r?sqrt|finite_or_zero)\(")
_CONSTANT = re.compile(r"\bKI?\([^()]*\)")


def operations_in(code: str) -> Counter[str]:
    """Scalar operations of one C text: `""` counts the cheap ones, names the slow functions."""
    code = _CONSTANT.sub("0", code)
    counted = Counter({name: len(re.findall(rf"\b{name}\(", code)) for name in SLOW})
    counted[""] = len(_COUNTED.findall(code))
    return +counted


def operations(formula: Expr) -> Counter[str]:
    """Scalar operations of a formula, as its kernel computes them."""
    program = lower([Term(rewrite(formula), SUM, "i")], "i")
    total: Counter[str] = Counter()
    for value in program.values:
        total += operations_in(value.code)
    return total


SAMPLES = (2, 3, 4, 5, 7)


def fitted(letters: Sequence[str], count: Callable[[Mapping[str, int]], int]) -> str | None:
    """A count as a polynomial of degree 2 in the letters, tried at more points than it has coefficients.

    Args:
        count: letters -> the number; RuleError where they do not fit.
    """
    monomials = ["1", *letters, *("*".join(pair) for pair in itertools.combinations_with_replacement(letters, 2))]
    rows, numbers = [], []
    for sample in itertools.product(SAMPLES, repeat=len(letters)):
        setting = dict(zip(letters, sample, strict=True))
        try:
            numbers.append(count(setting))
        except RuleError:
            continue
        rows.append([value_of(text, setting) for text in monomials])
    if not rows:
        raise RuleError("no sample fits")
    solution = np.linalg.lstsq(np.array(rows, float), np.array(numbers, float), rcond=None)[0]
    coefficients = np.rint(solution).astype(int)
    if not np.array_equal(np.array(rows) @ coefficients, numbers):
        return None
    # What is added comes first, and the highest degree.
    terms = [(c, text) for c, text in zip(coefficients.tolist(), monomials, strict=True) if c][::-1]
    terms.sort(key=lambda term: term[0] < 0)
    texts = [f"{'-' if c < 0 else '+'} {_product(abs(c), text)}" for c, text in terms]
    return " ".join(texts).removeprefix("+ ") or "0"


def _product(factor: int, text: str) -> str:
    if text == "1":
        return str(factor)
    return text if factor == 1 else f"{factor}*{text}"
