"""A workload -> the embedded engine through `farfield.torch`, as a user calls it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from workloads import Array, Workload

from farfield.torch import Genred

PAUSE_S = 0.05  # between calls: OpenMP threads spin for a while after a call and would take the next one's cores


class Ours:
    """A workload, computed once."""

    def __init__(self, workload: Workload, separation: str = "off") -> None:
        tensors = [torch.from_numpy(array) for array in workload.arrays()]
        start = time.perf_counter()
        routine = Genred(workload.formula, list(workload.aliases), separation=separation, **workload.words)
        self.shape: tuple[int, ...] = ()
        self.compute: Callable[[], Any]
        if workload.wrt:
            for place in workload.wrt:
                tensors[place].requires_grad_()
            result = routine(*tensors)
            self.shape = tuple(result.shape)
            cotangent = torch.from_numpy(workload.cotangent(self.shape))
            wanted = [tensors[place] for place in workload.wrt]
            self.compute = lambda: torch.autograd.grad(result, wanted, cotangent, retain_graph=True)
        else:
            self.compute = lambda: routine(*tensors)
        first = self.compute()
        self.values: Array = (first[0] if isinstance(first, tuple) else first).detach().numpy()
        self.first_call_s = time.perf_counter() - start

    def time(self) -> tuple[float, float]:
        """Wall and CPU milliseconds of one call."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.compute()
        return (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3
