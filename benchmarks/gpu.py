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
from workloads import OTHERS, WORKLOADS, Workload

from farfield_kernels.arguments import check_arguments, numpy_dtype
from farfield_kernels.build import cuda_device_count, import_cupy
from farfield_kernels.cuda_device import current_cuda
from farfield_kernels.engine import bind
from farfield_kernels.execute import Work, output_dtype
from farfield_kernels.operation import Spec, read
from farfield_kernels.stages import plan_call

Compute = Callable[[], Any]
Contestants = dict[str, Callable[[Workload], Compute | None]]


def ours(workload: Workload) -> Compute:
    """All kernels of a workload, on device arrays."""
    reduction, K, weights = workload.reduction, workload.K, workload.weights
    spec = Spec(workload.formula, workload.aliases, reduction, 1, formula2=weights, opt_arg=K, separation="off")
    arrays = workload.arrays()
    if workload.wrt:
        result = read(spec).results[0]
        arrays.append(workload.cotangent(result.shape(len(arrays[0]), len(arrays[1]))))
        spec = spec.vjp(workload.wrt)
    operation = read(spec)
    sizes = check_arguments(operation, [a.dtype.name for a in arrays], [a.shape for a in arrays])
    work, backend = Work(plan_call(spec, sizes.compute, "cuda"), sizes, None, spec.separation), current_cuda()
    passage = backend.open(
        [
            bind(slot, array, sizes.compute, sizes.N)
            for slot, array in zip(operation.arguments, arrays, strict=True)
        ]
    )
    passage.begin()
    launches = []
    for stage in work.call.stages:
        outputs = [
            passage.empty(work.shape(stage.program, o), numpy_dtype(output_dtype(o, sizes.compute)))
            for o in stage.program.outputs
        ]
        launch = work.launch(stage, backend)
        launches.append((launch, outputs, launch.memory(passage)))
    passage.wait()

    def compute() -> None:
        """On the current stream, where events are recorded."""
        for launch, outputs, memory in launches:
            launch.run(passage.arguments, outputs, memory, 0, launch.units)

    return compute


def torch_eager(workload: Workload) -> Compute | None:
    """The sum reduction with the M x N tensors that torch needs."""
    import torch

    if not workload.name.startswith("seed"):
        return None

    def forward(x: torch.Tensor, y: torch.Tensor, a: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        return ((p - a) ** 2 * torch.exp(x[:, None, :] + y[None, :, :])).sum(1)

    return _autograd(workload, forward)


def keops(workload: Workload) -> Compute:
    """pykeops on the GPU."""
    from pykeops.torch import Genred

    routine = Genred(workload.formula, list(workload.aliases), **workload.words)
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
    prepared = {name: prepare(workload) for name, prepare in contestants.items()}
    ready = {name: compute for name, compute in prepared.items() if compute}
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
    for workload in (*WORKLOADS, *OTHERS):
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
