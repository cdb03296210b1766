"""The HTTP routes."""

from __future__ import annotations

from . import compute, health, info

__all__ = ["compute", "health", "info"]
