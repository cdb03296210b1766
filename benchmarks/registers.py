"""What the emitted CUDA kernels of the workloads take of a multiprocessor, without a GPU.

    .venv/bin/python benchmarks/registers.py

Every kernel is compiled by NVRTC for each architecture; registers, local memory, shared memory and the constant
bank are read from the cubin. Where `nvdisasm` is found (of the CUDA toolkit, or the package nvidia-cuda-nvdisasm;
`NVDISASM` is its path), the instructions of the loop over pairs are counted too, per pair. Counts, not times.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from machine import save
from workloads import OTHERS, WORKLOADS, Workload, gaussian

from farfield_kernels.build import CUDA_OPTIONS
from farfield_kernels.cuda_launch import DEFAULT_MULTIPROCESSORS
from farfield_kernels.operation import Spec
from farfield_kernels.schedule import for_sizes, split
from farfield_kernels.schedule_contraction import CAPABILITY, is_for
from farfield_kernels.stages import Emitted, plan_call

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from cuda.cubin import disassembler, instructions, kinds, loops, resources

ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_100", "sm_120")
COUNTED = "sm_90"  # whose instructions are listed
WIDE = (gaussian("Gauss D64 v64", 10_000, 10_000, 64, 64), gaussian("Gauss D3 v64", 10_000, 10_000, 3, 64))


def compiled(source: str, architecture: str) -> bytes:
    """The cubin of a source."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CuPy warns about machines without a GPU
        from cupy.cuda.compiler import _NVRTCProgram

        program = _NVRTCProgram(source, "farfield.cu", method="cubin")
        binary: bytes = program.compile((*CUDA_OPTIONS, f"-arch={architecture}"))[0]
    return binary


def spec_of(workload: Workload) -> Spec:
    """The call of a workload, not separated."""
    words = {"formula2": workload.weights, "opt_arg": workload.K, "separation": "off"}
    spec = Spec(workload.formula, workload.aliases, workload.reduction, workload.axis, **words)
    return spec.vjp(workload.wrt) if workload.wrt else spec


def kernels(workload: Workload) -> Iterator[tuple[str, Emitted, tuple[int, int]]]:
    """(name, the kernel for its sizes, rows and columns)."""
    axes = {alias.partition("=")[2].strip()[:2]: k for k, alias in enumerate(workload.aliases)}
    M, N = (workload.shapes[axes[kind]][0] for kind in ("Vi", "Vj"))
    stages = plan_call(spec_of(workload), workload.dtype, "cuda").stages
    for stage in stages:
        rows, cols = (N, M) if stage.program.row_axis == "j" else (M, N)
        schedule = for_sizes(stage.program, stage.emitted.schedule, rows, cols, 1, DEFAULT_MULTIPROCESSORS)
        name = f"{workload.name}, rows of {stage.program.row_axis}" if len(stages) > 1 else workload.name
        yield name, stage.by(schedule), (rows, cols)
        if stage.contraction and is_for(rows, cols, CAPABILITY):
            yield f"{name}, tensor cores", stage.by(stage.contraction), (rows, cols)


def per_pair(binary: bytes, emitted: Emitted) -> dict[str, float] | None:
    """Instructions of the loop over pairs, per pair: the innermost loop that has most multiplications."""
    found = [kinds(operations) for operations in loops(instructions(binary, "farfield_reduce"))]
    counted = [loop for loop in found if any(name.startswith("LDS") for name in loop)]
    if not counted:
        return None
    arithmetic = ("FADD", "FMUL", "FFMA", "DADD", "DMUL", "DFMA")
    loop = max(counted, key=lambda loop: sum(loop[name] for name in arithmetic))
    columns = columns_of(loop, emitted)
    pairs = emitted.schedule.rows * columns
    total = {name: round(count / pairs, 3) for name, count in loop.most_common()}
    return {"instructions": round(sum(loop.values()) / pairs, 2), "columns": columns} | total


def columns_of(loop: Counter[str], emitted: Emitted) -> int:
    """Columns of one round of a loop: the words that it reads, by those that are read of a column."""
    words = {"LDS": 1, "LDS.64": 2, "LDS.128": 4}
    read = sum(count * words.get(name, 1) for name, count in loop.items() if name.startswith("LDS"))
    of_column = len(emitted.program.kept("col")) * (2 if emitted.schedule.dtype == "float64" else 1)
    last = of_column % 4  # three words are read as four
    return max(1, read // max(1, of_column + (last == 3)))


def measure(workload: Workload) -> Iterator[dict[str, Any]]:
    """One record per kernel."""
    for name, emitted, (rows, cols) in kernels(workload):
        schedule = emitted.schedule
        record: dict[str, Any] = {
            "kernel": name,
            "rows": schedule.rows,
            "team": schedule.team,
            "tile": schedule.tile,
            "polynomials": schedule.polynomials,
            "splits": split(schedule, rows, cols, 1, DEFAULT_MULTIPROCESSORS),
        }
        is_direct = schedule.scheme == "direct"
        for architecture in ARCHITECTURES[0 if is_direct else 1 :]:  # the first one has no such instructions
            binary = compiled(emitted.source, architecture)
            record[architecture] = asdict(resources(binary, "farfield_reduce"))
            if architecture == COUNTED and disassembler() and is_direct:
                record["per pair"] = per_pair(binary, emitted)
        yield record


def main(arguments: Sequence[str] | None = None) -> int:
    """All workloads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-save", action="store_true", help="print only")
    options = parser.parse_args(arguments)
    records = []
    for workload in (*WORKLOADS, *OTHERS, *WIDE):
        for record in measure(workload):
            records.append(record)
            taken = record[COUNTED]
            counted = (record.get("per pair") or {}).get("instructions", "-")
            print(
                f"{record['kernel']:<34} rows {record['rows']} team {record['team']:<3} "
                f"splits {record['splits']:<4} registers {taken['registers']:<3} local {taken['local_bytes']:<4} "
                f"shared {taken['shared_bytes']:<6}"
                f" instructions per pair {counted}"
            )
    if not options.no_save:
        print(f"saved as {save('registers', {'counted': COUNTED, 'kernels': records})}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
