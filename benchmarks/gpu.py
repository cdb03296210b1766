"""The CUDA engine against torch eager and, where it is installed, pykeops, on one GPU, call by call in turn.

    .venv/bin/python benchmarks/gpu.py

Device time by events, medians. Our arrays are on the device already, as the peers' tensors are. Without a GPU
it says so and measures nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

from machine import save
from workloads import WORKLOADS, Workload

from farfield_kernels.build import cuda_device_count, import_cupy
from farfield_kernels.engine import Plan, plan_call
from farfield_kernels.launch import CudaKernel
from farfield_kernels.operation import Spec, read

Compute = Callable[[], Any]
Contestants = dict[str, Callable[[Workload], Compute]]


def ours(workload: Workload) -> Compute:
    """All kernels of a workload, on device arrays."""
    cupy = import_cupy()
    spec = Spec(workload.formula, workload.aliases)
    arrays = workload.arrays()
    sizes = {"i": arrays[0].shape[0], "j": arrays[1].shape[0]}
    if workload.wrt:
        result = read(spec).results[0]
        arrays.append(workload.cotangent(result.shape(sizes["i"], sizes["j"])))
        spec = spec.vjp(workload.wrt)
    call = plan_call(spec, workload.dtype, "cuda")
    inputs = [cupy.asarray(array) for array in arrays]
    stages = _stages(call, sizes, workload.dtype)

    def compute() -> None:
        for kernel, outputs, rows, cols in stages:
            kernel(inputs, outputs, rows, cols)

    return compute


def _stages(call: Plan, sizes: dict[str, int], dtype: str) -> list[tuple[CudaKernel, list[Any], int, int]]:
    cupy = import_cupy()
    stages = []
    for stage in call.stages:
        rows = sizes[stage.program.row_axis]
        cols = sizes["i" if stage.program.row_axis == "j" else "j"]
        outputs = [
            cupy.empty((rows, output.count), "float64" if output.is_sum else dtype)
            for output in stage.program.outputs
        ]
        stages.append((CudaKernel(stage.program, stage.schedule, stage.source), outputs, rows, cols))
    return stages


def torch_eager(workload: Workload) -> Compute:
    """The same with the M x N tensors that torch needs."""
    import torch

    def forward(x: torch.Tensor, y: torch.Tensor, a: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        return ((p - a) ** 2 * torch.exp(x[:, None, :] + y[None, :, :])).sum(1)

    return _autograd(workload, forward)


def keops(workload: Workload) -> Compute:
    """pykeops on the GPU."""
    from pykeops.torch import Genred

    routine = Genred(workload.formula, list(workload.aliases), reduction_op="Sum", axis=1)
    return _autograd(workload, lambda *tensors: routine(*tensors, backend="GPU"))


def _autograd(workload: Workload, forward: Callable[..., Any]) -> Compute:
    import torch

    tensors = [torch.from_numpy(array).cuda() for array in workload.arrays()]
    if not workload.wrt:
        return lambda: forward(*tensors)
    for place in workload.wrt:
        tensors[place].requires_grad_()
    result = forward(*tensors)
    cotangent = torch.from_numpy(workload.cotangent(tuple(result.shape))).cuda()
    wanted = [tensors[place] for place in workload.wrt]
    return lambda: torch.autograd.grad(result, wanted, cotangent, retain_graph=True)


def device_ms(compute: Compute) -> float:
    """Milliseconds between two events around one call, on an idle device."""
    cupy = import_cupy()
    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    cupy.cuda.Device().synchronize()
    begin.record()
    compute()
    end.record()
    end.synchronize()
    return float(cupy.cuda.get_elapsed_time(begin, end))


def measure(workload: Workload, contestants: Contestants, repeats: int) -> dict[str, Any]:
    """Medians of alternating calls."""
    ready = {name: prepare(workload) for name, prepare in contestants.items()}
    times: dict[str, list[float]] = {name: [] for name in ready}
    for turn in range(repeats + 3):
        for name, compute in ready.items():
            elapsed = device_ms(compute)
            if turn >= 3:
                times[name].append(elapsed)
    return {"workload": workload.name} | {f"{name}_ms": statistics.median(found) for name, found in times.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all workloads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=50, help="timed calls of each (default: 50)")
    parser.add_argument("--no-save", action="store_true", help="print only")
    options = parser.parse_args(arguments)
    if not cuda_device_count():
        print("no CUDA device that CuPy sees: nothing was measured ('farfield doctor' says what is missing)")
        return 0
    cupy = import_cupy()
    contestants: Contestants = {"ours": ours, "torch": torch_eager}
    if importlib.util.find_spec("pykeops"):
        contestants["keops"] = keops
    rows = []
    for workload in WORKLOADS:
        rows.append(measure(workload, contestants, options.repeats))
        figures = "   ".join(f"{key} {value:.3f}" for key, value in rows[-1].items() if key != "workload")
        print(f"{workload.name:<22} {figures}")
    device = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    content = {"device": device, "driver": cupy.cuda.runtime.driverGetVersion(), "workloads": rows}
    if not options.no_save:
        print(f"saved as {save('gpu', content)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
