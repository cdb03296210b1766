"""Where the tests of an operator draw its operands from, and with which dims they call it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Domain:
    """Where an operand may be drawn from when an operator is tested.

    Args:
        low, high: the interval.
        away_from_zero: no draw is nearer to 0.
        grid: if positive, no draw is nearer than `grid / 4` to a multiple of `grid`, where the operator jumps.
        apart: the components of one row are drawn from separate parts of the interval: none nearly tie.
        ascending: the components of one row are sorted.
    """

    low: float
    high: float
    away_from_zero: float = 0.0
    grid: float = 0.0
    apart: bool = False
    ascending: bool = False

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Uniform draws: `shape` float64."""
        drawn = rng.uniform(self.low, self.high, shape)
        if self.apart:
            part = (self.high - self.low) / shape[-1]
            places = rng.permuted(np.broadcast_to(np.arange(shape[-1]), shape), axis=-1)
            drawn = self.low + part * (places + rng.uniform(0.25, 0.75, shape))
        if self.ascending:
            drawn = np.sort(drawn, axis=-1)
        if self.grid:
            cells = np.floor(drawn / self.grid)
            drawn = self.grid * (cells + 0.25 + 0.5 * (drawn / self.grid - cells))
        near = np.abs(drawn) < self.away_from_zero
        return np.where(near, np.where(drawn < 0, -1.0, 1.0) * self.away_from_zero + drawn, drawn)

    def tied(self, drawn: Array) -> Array:
        """The draws rounded to halves where the domain has them, so that equal ones and zeros are frequent.

        Those that are apart are folded at 0 first, or the largest would remain alone.
        """
        if self.grid:
            return drawn
        halves = np.round(2 * (np.abs(drawn) if self.apart else drawn)) / 2
        allowed = (self.low <= halves) & (halves <= self.high) & (np.abs(halves) >= self.away_from_zero)
        tied = np.where(allowed, halves, drawn)
        return np.sort(tied, axis=-1) if self.ascending else tied


REAL = Domain(-2.0, 2.0)
POSITIVE = Domain(0.2, 3.0)
NONZERO = Domain(-2.0, 2.0, away_from_zero=0.25)


@dataclass(frozen=True)
class Case:
    """One way to call an operator that its tests cover: operand dims, and integers or lists of them."""

    dims: tuple[int, ...]
    integers: tuple[int | tuple[int, ...], ...] = ()
