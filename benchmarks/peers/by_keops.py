"""A workload -> pykeops's routine for it."""

from __future__ import annotations

import os

os.environ.setdefault("KEOPS_VERBOSE", "0")
os.environ.setdefault("PYKEOPS_VERBOSE", "0")

from pykeops.torch import Genred
from workloads import Workload

from . import Compute
from .by_torch import call


def genred(workload: Workload, device: str) -> Compute:
    """The same words that ours takes."""
    routine = Genred(workload.formula, list(workload.aliases), **workload.words)
    backend = "CPU" if device == "cpu" else "GPU"
    return call(workload, lambda *tensors: routine(*tensors, backend=backend), device)
