"""A seed -> workloads drawn at random from what people write: kernels, their products, and what reduces them.

    .venv/bin/python benchmarks/drawn.py --seed 7    # prints them

Nothing is chosen by hand but the tables below, so the workloads are none that the engine was tuned on. A draw uses
`random.Random(seed).random()` alone, which gives the same numbers in every version of Python.
"""

from __future__ import annotations

import argparse
import functools
import math
import random
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from workloads import Array, Workload

PREFIX = "drawn "
SEED, COUNT = 0, 12
ROWS_COMPARED = 16
FEWEST, MOST_ROWS = 300, 30_000  # M and N, log-uniform
MOST_DIM = 100
MOST_WORK = 1e9  # M * N * the largest dim, of which 10 are taken for the rest of a pair

T = TypeVar("T")

DISTANCES = ("SqDist(x,y)", "Norm2(x-y)", "Sum(Abs(x-y))", "WeightedSqNorm(w,x-y)")
KERNELS = {  # of a distance: name -> formula
    "Gaussian or Laplacian": "Exp(-g*{})",
    "Cauchy": "Inv(1+g*{})",
    "inverse multiquadric": "Inv(Sqrt(1+g*{}))",
    "multiquadric": "Sqrt(1+g*{})",
    "logarithmic": "Log(1+g*{})",
    "compact": "ReLU(1-g*{})",
    "of two pieces": "IfElse(1-g*{0},Exp(-g*{0}),Inv(1+g*{0}))",
    "periodic": "Cos(g*{})",
}
OF_PRODUCTS = {  # of a scalar product
    "linear": "{}",
    "polynomial": "Square(1+g*{})",
    "cubic": "(1+g*{})**3",
    "sigmoid": "Atan(g*{})",
    "exponential": "Exp(g*{})",
    "random feature": "Cos(g*{})",
}
SUMMED = ("{k}*b", "{k}*b", "{k}*b", "{k}*(x-y)", "{k}*{l}*b", "{k}*Cos(u+b)", "{k}*(u|b)*b", "{k}*Abs(u-b)")
"""Terms of a sum, made of kernels k and l and of vectors; what is often seen stands there often."""

SCALAR = ("{s}", "{k}", "-g*{s}+c", "{k}*{l}", "Log(1+Square({s}))")
"""Terms of the other reductions, made of a score s or of kernels."""

REDUCTIONS = (
    *("Sum",) * 8,
    *("LogSumExp", "LogSumExp", "SumSoftMaxWeight", "SumSoftMaxWeight", "Max_SumShiftExp"),
    *("Max", "Min", "ArgMin", "ArgMax", "KMin", "ArgKMin"),
)


class Draw:
    """One seeded source of choices."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed).random

    def of(self, options: Sequence[T]) -> T:
        """One of them."""
        return options[int(self.random() * len(options))]

    def number(self, low: int, high: int) -> int:
        """A whole number, log-uniform."""
        return round(math.exp(math.log(low) + self.random() * math.log(high / low)))

    def kernel(self) -> str:
        """A kernel of x and y."""
        if self.random() < 0.7:
            return self.of(list(KERNELS.values())).format(self.of(DISTANCES))
        return self.of(list(OF_PRODUCTS.values())).format("(x|y)")

    def score(self) -> str:
        """A distance or a scalar product."""
        return self.of((*DISTANCES, "(x|y)"))


def workload(name: str, draw: Draw) -> Workload:
    """One of them: formula, reduction, sizes."""
    reduction = draw.of(REDUCTIONS)
    D, Dv, K = draw.number(1, MOST_DIM), draw.number(1, 10), draw.number(1, 20)
    text = draw.of(SUMMED if reduction == "Sum" else SCALAR)
    formula = text.format(k=draw.kernel(), l=draw.kernel(), s=draw.score())
    while True:
        M, N = (draw.number(FEWEST, MOST_ROWS) for _ in range(2))
        if M * N * max(10, D, Dv) <= MOST_WORK:
            break
    weights = "b" if reduction == "SumSoftMaxWeight" else None
    declared = {
        "x": ("Vi", M, D),
        "y": ("Vj", N, D),
        "u": ("Vi", M, Dv),
        "b": ("Vj", N, Dv),
        "c": ("Vj", N, 1),
        "g": ("Pm", None, 1),
        "w": ("Pm", None, D),
    }
    used = {v: words for v, words in declared.items() if v in "xy" or _names(v, f"{formula} {weights}")}
    aliases = tuple(f"{v} = {word}({dim})" for v, (word, _, dim) in used.items())
    axis = draw.of((0, 1))
    words = {
        "reduction": reduction,
        "axis": axis,
        "K": K if "KMin" in reduction else None,
        "weights": weights,
    }
    return Workload(
        name,
        formula,
        aliases,
        tuple((dim,) if rows is None else (rows, dim) for _, rows, dim in used.values()),
        functools.partial(exact, formula, aliases, words),
        dtype=draw.of(("float32", "float32", "float32", "float64")),
        scales={place: 1.0 / D for place, variable in enumerate(used) if variable in "gw"},
        **words,
    )


def _names(variable: str, formula: str) -> bool:
    spaced = "".join(letter if letter.isalnum() else " " for letter in formula)
    return variable in spaced.split()


def exact(formula: str, aliases: tuple[str, ...], words: dict[str, object], *arrays: Array) -> Array:
    """The first rows of the result, by the reference evaluator: NumPy in float64."""
    from farfield_kernels.operation import Spec, read  # what a peer's process does not have
    from farfield_kernels.reference import reference

    kept = "Vi" if words["axis"] == 1 else "Vj"
    few = [array[:ROWS_COMPARED] if kept in alias else array for alias, array in zip(aliases, arrays, strict=True)]
    spec = Spec(
        formula,
        aliases,
        words["reduction"],
        words["axis"],
        formula2=words["weights"],
        opt_arg=words["K"],
    )
    return np.asarray(reference(read(spec), few)[0])


@functools.cache
def workloads(seed: int = SEED, count: int = COUNT) -> tuple[Workload, ...]:
    """Those of a seed, the same in every process; more of them begin with the fewer ones."""
    draw = Draw(seed)
    return tuple(workload(f"{PREFIX}{seed}.{number}", draw) for number in range(1, count + 1))


def by_name(name: str) -> Workload:
    """The workload called `drawn SEED.NUMBER`."""
    seed, number = name.removeprefix(PREFIX).split(".")
    return workloads(int(seed), int(number))[-1]


def describe(drawn: Workload) -> str:
    """Formula, arguments and reduction in one line."""
    M, N = drawn.shapes[0][0], drawn.shapes[1][0]
    extra = (f" K={drawn.K}" if drawn.K else "") + (f" weights {drawn.weights}" if drawn.weights else "")
    over = "j" if drawn.axis == 1 else "i"
    return f"{drawn.reduction}_{over}{extra} {drawn.formula}; {', '.join(drawn.aliases)}; {M}x{N} {drawn.dtype}"


def main() -> None:
    """Print the workloads of a seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=SEED, help="(default: %(default)s)")
    parser.add_argument("--count", type=int, default=COUNT, help="(default: %(default)s)")
    options = parser.parse_args()
    for drawn in workloads(options.seed, options.count):
        print(f"{drawn.name:<12} {describe(drawn)}")


if __name__ == "__main__":
    main()
