"""How often a test for faults does what it does: short in the suite, long with `--soak`."""

from __future__ import annotations

from typing import NamedTuple


class Count(NamedTuple):
    """Both forms of a test, declared once."""

    short: int
    long: int

    def of(self, is_soak: bool) -> int:
        """The one that is asked for."""
        return self.long if is_soak else self.short
