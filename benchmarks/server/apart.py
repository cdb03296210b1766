"""Processes for clients, started fresh: their GIL is not this process's, and their memory begins empty."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor


def apart(processes: int) -> ProcessPoolExecutor:
    """So many."""
    return ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))
