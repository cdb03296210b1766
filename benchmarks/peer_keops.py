"""pykeops, driven by cpu.py: run by the peers' Python, reads a workload's name per line, answers with JSON.

{"compile_s", "wall_ms", "cpu_ms", "result"}: `result` is the path of an .npy file with the first result's values.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable

os.environ.setdefault("KEOPS_VERBOSE", "0")
os.environ.setdefault("PYKEOPS_VERBOSE", "0")

import numpy as np
import torch
from pykeops.torch import Genred
from workloads import Workload, by_name


def prepare(workload: Workload) -> Callable[[], torch.Tensor]:
    """A function without arguments that computes the workload."""
    tensors = [torch.from_numpy(array) for array in workload.arrays()]
    routine = Genred(workload.formula, list(workload.aliases), **workload.words)
    if not workload.wrt:
        return lambda: routine(*tensors, backend="CPU")
    for place in workload.wrt:
        tensors[place].requires_grad_()
    result = routine(*tensors, backend="CPU")
    cotangent = torch.from_numpy(workload.cotangent(tuple(result.shape)))
    wanted = [tensors[place] for place in workload.wrt]
    return lambda: torch.autograd.grad(result, wanted, cotangent, retain_graph=True)[0]


def main() -> None:
    """Serve until standard input ends."""
    ready: dict[str, Callable[[], torch.Tensor]] = {}
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the peer prints must not mix with the answers
    for line in sys.stdin:
        name = line.strip()
        answer: dict[str, object] = {}
        if name not in ready:
            start = time.perf_counter()
            ready[name] = prepare(by_name(name))
            values = ready[name]()
            answer["compile_s"] = time.perf_counter() - start
            with tempfile.NamedTemporaryFile(suffix=".npy", delete=False) as file:
                np.save(file, values.detach().numpy())
            answer["result"] = file.name
        wall, cpu = time.perf_counter(), time.process_time()
        ready[name]()
        answer["wall_ms"] = (time.perf_counter() - wall) * 1e3
        answer["cpu_ms"] = (time.process_time() - cpu) * 1e3
        print(json.dumps(answer), file=answers, flush=True)


main()
