"""Farfield for torch tensors, with gradients of every order."""

from __future__ import annotations

from .genred import Genred

__all__ = ["Genred"]
