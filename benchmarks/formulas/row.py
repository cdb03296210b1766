"""What one row of the table of formulas says, the arrays it is computed on, and what NumPy says it is.

Nothing here imports Farfield or pykeops: both programs of the comparison, and the judge, read the same rows.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

M, N = 60, 70  # rows of i and of j

EDGES = (
    *(
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        -0.5,
        1.5,
        -1.5,
        2.5,
        -2.5,
        2.0,
        -2.0,
        3.0,
        0.25,
        1e-8,
        -1e-8,
        1e-3,
        1e-40,
        1e-300,
    ),
    *(1e8, -1e8, 1e300, 800.0, -800.0, 720.5, np.inf, -np.inf, np.nan),
)
PAIRS = tuple(itertools.product((0.0, -0.0, 1.0, -1.0, 2.5, np.inf, np.nan), repeat=2))
TRIPLES = tuple(itertools.product((-2.5, -1.0, 0.0, 1.0, 2.5, np.nan), (-1.0, 0.0), (1.0, 0.5, 3.0)))


def _uniform(low: float, high: float) -> Callable[[np.random.Generator, tuple[int, ...]], Array]:
    return lambda rng, shape: rng.uniform(low, high, shape)


def _first_rows(values: Sequence[float]) -> Callable[[np.random.Generator, tuple[int, ...]], Array]:
    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        array = rng.uniform(-2.0, 2.0, shape)
        listed = np.array(values)[: shape[0]]
        array[: len(listed)] = listed[:, None]
        return array

    return draw


def _zero_rows(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    array = rng.uniform(-2.0, 2.0, shape)
    array[::3] = 0.0
    return array


def _some_nan(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    array = rng.uniform(-2.0, 2.0, shape)
    array[::5, -1] = np.nan
    array[2::5, 0] = np.nan
    return array


DRAWS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Array]] = {
    "real": _uniform(-2.0, 2.0),
    "positive": _uniform(0.2, 1.5),
    "unit": _uniform(-0.45, 0.45),
    "fraction": _uniform(0.5, 1.0),
    "places": lambda rng, shape: rng.integers(0, 4, shape).astype(float),
    "knots": lambda rng, shape: np.cumsum(rng.uniform(0.2, 0.6, shape), axis=-1),
    "large": _uniform(400.0, 800.0),
    # From here on, points where a derivative may have no meaning of its own.
    "overflowing": _uniform(720.0, 800.0),
    "ties": lambda rng, shape: rng.integers(-1, 2, shape).astype(float),
    "zero_rows": _zero_rows,
    "some_nan": _some_nan,
    "edges": _first_rows(EDGES),
    "first_of_pairs": _first_rows([pair[0] for pair in PAIRS]),
    "second_of_pairs": _first_rows([pair[1] for pair in PAIRS]),
    "first_of_triples": _first_rows([triple[0] for triple in TRIPLES]),
    "second_of_triples": _first_rows([triple[1] for triple in TRIPLES]),
    "third_of_triples": _first_rows([triple[2] for triple in TRIPLES]),
}
JUMPING = frozenset("Floor Round Mod Sign Step IfElse OneHot ArgMax ArgMin Equal NotEqual < <= > >= == !=".split())
SINGULAR = tuple(DRAWS)[list(DRAWS).index("overflowing") :]


@dataclass(frozen=True)
class Variable:
    """One argument: `word` is Vi, Vj or Pm. Its values depend on this record alone."""

    name: str
    word: str
    dim: int
    draw: str = "real"

    @property
    def alias(self) -> str:
        """As both libraries take it."""
        return f"{self.name} = {self.word}({self.dim})"

    def array(self, dtype: str) -> Array:
        """(M, dim), (N, dim) or (dim,)."""
        rng = np.random.default_rng(zlib.crc32(repr((self.name, self.word, self.dim, self.draw)).encode()))
        rows = {"Vi": M, "Vj": N, "Pm": 1}[self.word]
        drawn = DRAWS[self.draw](rng, (rows, self.dim)).astype(dtype)
        return drawn[0] if self.word == "Pm" else drawn


@dataclass(frozen=True, kw_only=True)
class Row:
    """One formula that both libraries compute, forward and, where it has one, with its gradient.

    Args:
        section: the heading under which the report counts it.
        formula, variables, reduction, axis, K, weights, dtype: the words of the call; `weights` is `formula2`.
        truth: the terms by NumPy: one array per variable, (M, 1, d), (1, N, d) or (1, 1, d) -> (M, N, D).
        weights_truth: likewise for `weights`.
        aliases: declarations that differ from the usual `x = Vi(3)`.
        differs: why the peer's result is another; empty if both must agree.
    """

    section: str
    formula: str
    variables: tuple[Variable, ...]
    truth: Callable[..., Array]
    reduction: str = "Sum"
    axis: int = 1
    K: int | None = None
    weights: str | None = None
    weights_truth: Callable[..., Array] | None = None
    dtype: str = "float64"
    aliases: tuple[str, ...] = ()
    differs: str = ""

    @property
    def declared(self) -> list[str]:
        """The aliases."""
        return list(self.aliases or (variable.alias for variable in self.variables))

    @property
    def is_smooth(self) -> bool:
        """No value was put where a derivative may have no meaning of its own."""
        return not any(variable.draw in SINGULAR for variable in self.variables)

    @property
    def is_continuous(self) -> bool:
        """No part of the formula jumps."""
        return not JUMPING & set(re.findall(r"\w+|[<>=!]+", self.formula))

    @property
    def key(self) -> str:
        """Names what is computed, not what is expected."""
        words = (self.formula, self.variables, self.reduction, self.axis, self.K, self.weights, self.dtype)
        return hashlib.sha256(repr((*words, self.aliases, M, N)).encode()).hexdigest()[:20]

    def arrays(self) -> list[Array]:
        """The arguments."""
        return [variable.array(self.dtype) for variable in self.variables]

    def cotangent(self, shape: tuple[int, ...]) -> Array:
        """Of the result, positive."""
        return np.random.default_rng(zlib.crc32(self.formula.encode())).uniform(0.2, 1.0, shape).astype(self.dtype)

    def exact(self, arrays: list[Array]) -> tuple[Array, ...]:
        """The results by NumPy in float64."""
        shaped = []
        for variable, array in zip(self.variables, arrays, strict=True):
            wide = array.astype(np.float64)
            shaped.append({"Vi": wide[..., None, :], "Vj": wide[None], "Pm": wide[None, None]}[variable.word])
        with np.errstate(all="ignore"):
            terms = _terms(self.truth(*shaped), self.axis)
            weights = None if self.weights_truth is None else _terms(self.weights_truth(*shaped), self.axis)
            return REDUCE[self.reduction](terms, weights, self.K)


def _terms(values: Array, axis: int) -> Array:
    """(kept rows, reduced rows, D)."""
    wide = np.broadcast_to(values, (M, N, np.shape(values)[-1]))
    return wide if axis == 1 else wide.swapaxes(0, 1)


# ---- the reductions by NumPy: terms (rows, columns, D), weights, K -> results --------------------------------


def _shifted(t: Array, w: Array | None) -> tuple[Array, Array]:
    m = t.max(1, keepdims=True)
    return m[:, 0], (np.exp(t - m) * (1.0 if w is None else w)).sum(1)


def _log_sum_exp(t: Array, w: Array | None, K: int | None) -> tuple[Array, ...]:
    m, s = _shifted(t, w)
    return (m + np.log(s),)


def _softmax(t: Array, w: Array | None, K: int | None) -> tuple[Array, ...]:
    assert w is not None
    return (_shifted(t, w)[1] / _shifted(t, None)[1],)


def _smallest(t: Array, K: int | None) -> tuple[Array, Array]:
    order = np.argsort(t, axis=1, kind="stable")[:, :K]
    values = np.take_along_axis(t, order, 1)
    return (values[..., 0], order[..., 0]) if t.shape[-1] == 1 else (values, order)


REDUCE: dict[str, Callable[[Array, Array | None, int | None], tuple[Array, ...]]] = {
    "Sum": lambda t, w, K: (t.sum(1),),
    "LogSumExp": _log_sum_exp,
    "LogSumExpWeight": _log_sum_exp,
    "SumSoftMaxWeight": _softmax,
    "SoftMax": _softmax,
    "Max_SumShiftExp": lambda t, w, K: (np.concatenate(_shifted(t, None), -1),),
    "Max_SumShiftExpWeight": lambda t, w, K: (np.concatenate(_shifted(t, w), -1),),
    "Max": lambda t, w, K: (t.max(1),),
    "Min": lambda t, w, K: (t.min(1),),
    "ArgMax": lambda t, w, K: (t.argmax(1),),
    "ArgMin": lambda t, w, K: (t.argmin(1),),
    "Max_ArgMax": lambda t, w, K: (t.max(1), t.argmax(1)),
    "Min_ArgMin": lambda t, w, K: (t.min(1), t.argmin(1)),
    "MaxArgMax": lambda t, w, K: (t.max(1), t.argmax(1)),
    "MinArgMin": lambda t, w, K: (t.min(1), t.argmin(1)),
    "KMin": lambda t, w, K: _smallest(t, K)[:1],
    "ArgKMin": lambda t, w, K: _smallest(t, K)[1:],
    "KMin_ArgKMin": lambda t, w, K: _smallest(t, K),
    "KMinArgKMin": lambda t, w, K: _smallest(t, K),
}

# ---- how the tables are written ------------------------------------------------------------------------------

_DECLARED = re.compile(r"(\w+) = (Vi|Vj|Pm)\((\d+)\)(?: (\w+))?")


def variables(text: str) -> tuple[Variable, ...]:
    """`x = Vi(3) positive, y = Vj(3)` -> the variables; the word after a declaration says how values are drawn."""
    found = []
    for part in filter(None, text.split(", ")):
        match = _DECLARED.fullmatch(part)
        if match is None:
            raise ValueError(f"{part!r} is not a declaration")
        found.append(Variable(match[1], match[2], int(match[3]), match[4] or "real"))
    return tuple(found)


class Section:
    """Collects the rows under one heading."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: list[Row] = []

    def __call__(self, formula: str, declared: str, truth: Callable[..., Array], **words: Any) -> None:
        """Add a row; `words` are fields of `Row`."""
        given = variables(declared)
        count = len(given)
        if not any(variable.word == "Vj" for variable in given):  # else there is one column
            given = (*given, Variable("unused", "Vj", 1))
        row = Row(
            section=self.name,
            formula=formula,
            variables=given,
            truth=lambda *arrays: truth(*arrays[:count]),
            **words,
        )
        self.rows.append(row)


def in_float32(rows: Iterable[Row]) -> list[Row]:
    """The same rows in float32, where what the peer rounds to float32 is no difference."""
    return [replace(row, dtype="float32", section="float32", differs="") for row in rows]
