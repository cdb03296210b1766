"""One measured figure, its target, and how much is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


class NotMeasured(Exception):
    """A section cannot be measured with this server; the message says why."""


@dataclass(frozen=True)
class Figure:
    """A figure beside its target.

    Args:
        value: None if the server does not tell.
        at_most, at_least: the target, one of them or none.
        beside: what else is kept: the yardstick, counts.
    """

    name: str
    value: float | None
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None
    beside: dict[str, Any] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """Such as `at most 1.3`."""
        bounds = {"at most": self.at_most, "at least": self.at_least}
        return "".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)

    @property
    def is_met(self) -> bool | None:
        """None without a target, or a value."""
        if self.value is None or not self.target:
            return None
        is_low_enough = self.at_most is None or self.value <= self.at_most
        return is_low_enough and (self.at_least is None or self.value >= self.at_least)

    def row(self) -> dict[str, Any]:
        """As it is saved."""
        told = {"figure": self.name, "value": self.value, "unit": self.unit}
        return told | {"target": self.target or None, "is_met": self.is_met, **self.beside}

    def line(self) -> str:
        """As it is printed."""
        value = "not told" if self.value is None else f"{self.value:.4g}"
        verdict = {True: "met", False: "NOT MET", None: ""}[self.is_met]
        return f"{self.name:<58} {value:>9} {self.unit:<4} {self.target:<14} {verdict}".rstrip()


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Args:
        repeats: calls of each, in place of a section's own number.
        is_short: a sixth of a section's own numbers and seconds.
    """

    repeats: int | None = None
    is_short: bool = False

    def calls(self, usual: int) -> int:
        """Calls to make."""
        return self.repeats or self.count(usual)

    def count(self, usual: int) -> int:
        """Of what `--repeats` does not change."""
        return max(1, usual // 6) if self.is_short else usual

    def seconds(self, usual: float) -> float:
        """For how long to send requests."""
        return usual / 6 if self.is_short else usual


def percentile(values: Sequence[float], percent: float) -> float:
    """Of at least one value."""
    return float(np.percentile(values, percent))


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return percentile(values, 50)
