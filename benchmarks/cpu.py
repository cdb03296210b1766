"""The embedded engine against pykeops on this machine's CPU, in one run, call by call in turn.

    make bench-peers && .venv/bin/python benchmarks/cpu.py

Separation is off but for the last lines. CPU time (summed over threads) is what contention on the machine does not
move; wall time stands beside it. The error is the largest difference to float64 NumPy relative to the largest
value, on sampled rows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import save
from workloads import OTHERS, SEPARATED, WORKLOADS, Array, Workload

HERE = Path(__file__).parent
PAUSE_S = 0.05  # between calls: OpenMP threads of the peer spin for a while after a call and would take our cores


class Ours:
    """The embedded engine through farfield.torch, as a user calls it."""

    def __init__(self, workload: Workload, separation: str) -> None:
        import torch

        from farfield.torch import Genred

        tensors = [torch.from_numpy(array) for array in workload.arrays()]
        start = time.perf_counter()
        routine = Genred(workload.formula, list(workload.aliases), separation=separation, **workload.words)
        self.shape: tuple[int, ...] = ()
        if workload.wrt:
            for place in workload.wrt:
                tensors[place].requires_grad_()
            result = routine(*tensors)
            self.shape = tuple(result.shape)
            cotangent = torch.from_numpy(workload.cotangent(tuple(result.shape)))
            wanted = [tensors[place] for place in workload.wrt]
            self.compute = lambda: torch.autograd.grad(result, wanted, cotangent, retain_graph=True)[0]
        else:
            self.compute = lambda: routine(*tensors)
        self.values: Array = self.compute().detach().numpy()
        self.compile_s = time.perf_counter() - start

    def time(self) -> tuple[float, float]:
        """Wall and CPU milliseconds of one call."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.compute()
        return (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3


class Keops:
    """pykeops in a process and a virtual environment of its own."""

    def __init__(self, python: str) -> None:
        environment = os.environ | {"KEOPS_CACHE_FOLDER": tempfile.mkdtemp(), "OMP_NUM_THREADS": str(_cores())}
        self.process = subprocess.Popen(
            [python, str(HERE / "peer_keops.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def ask(self, workload: Workload) -> dict[str, Any]:
        """One timed call; the first of a workload also compiles."""
        assert self.process.stdin
        assert self.process.stdout
        print(workload.name, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"pykeops ended with {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def error(values: Array, workload: Workload, shape: tuple[int, ...]) -> float:
    """Largest difference to float64 NumPy on the compared rows, relative to the largest value there."""
    truth = workload.exact(shape)
    return float(np.abs(values[: len(truth)].reshape(truth.shape) - truth).max() / np.abs(truth).max())


def measure(workload: Workload, keops: Keops | None, repeats: int, separation: str = "off") -> dict[str, Any]:
    """Medians of alternating calls."""
    ours = Ours(workload, separation)
    row: dict[str, Any] = {"workload": workload.name, "ours_first_call_s": ours.compile_s}
    row["ours_error"] = error(ours.values, workload, ours.shape)
    if keops:
        first = keops.ask(workload)
        row |= {"keops_first_call_s": first["compile_s"]}
        row["keops_error"] = error(np.load(first["result"]), workload, ours.shape)
        os.unlink(first["result"])
    times: dict[str, list[float]] = {name: [] for name in ("ours_wall", "ours_cpu", "keops_wall", "keops_cpu")}
    for _ in range(repeats):
        time.sleep(PAUSE_S)
        wall, cpu = ours.time()
        times["ours_wall"].append(wall)
        times["ours_cpu"].append(cpu)
        if keops:
            time.sleep(PAUSE_S)
            answer = keops.ask(workload)
            times["keops_wall"].append(answer["wall_ms"])
            times["keops_cpu"].append(answer["cpu_ms"])
    row |= {f"{name}_ms": statistics.median(values) for name, values in times.items() if values}
    if keops:
        row["faster_wall"] = row["keops_wall_ms"] / row["ours_wall_ms"]
        row["faster_cpu"] = row["keops_cpu_ms"] / row["ours_cpu_ms"]
    return row


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Geometric mean and least of the ratios."""
    found: dict[str, float] = {}
    for kind in ("cpu", "wall"):
        ratios = [row[f"faster_{kind}"] for row in rows if f"faster_{kind}" in row]
        if ratios:
            found |= {f"{kind}_geomean": statistics.geometric_mean(ratios), f"{kind}_least": min(ratios)}
    return found


def show(row: dict[str, Any]) -> None:
    """One line per workload."""
    text = f"{row['workload']:<22} ours {row['ours_wall_ms']:7.2f} ms wall {row['ours_cpu_ms']:7.2f} cpu"
    text += f" (first {row['ours_first_call_s']:5.2f} s, error {row['ours_error']:.0e})"
    if "faster_cpu" in row:
        text += f"   pykeops {row['keops_wall_ms']:7.1f} wall {row['keops_cpu_ms']:7.1f} cpu"
        text += f" (first {row['keops_first_call_s']:5.1f} s, error {row['keops_error']:.0e})"
        text += f"   {row['faster_wall']:5.1f}x wall {row['faster_cpu']:5.1f}x cpu"
    print(text, flush=True)


def main() -> int:
    """Run all workloads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30, help="timed calls of each (default: 30)")
    parser.add_argument("--only", default="", help="the workloads with this in their name; not saved")
    parser.add_argument("--peers-python", default=str(HERE.parent / ".venv-peers/bin/python"))
    parser.add_argument("--no-save", action="store_true", help="print only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["FARFIELD_CACHE_DIR"] = cache  # so that first calls compile
        os.environ.pop("FARFIELD_URL", None)
        keops = Keops(options.peers_python) if Path(options.peers_python).exists() else None
        if keops is None:
            print(f"pykeops is not compared: no {options.peers_python} (make bench-peers)", file=sys.stderr)
        found: dict[str, Any] = {"threads": _cores()}
        for title, workloads, separation in (
            ("workloads", WORKLOADS, "off"),
            ("backward", OTHERS, "off"),
            ("separated", SEPARATED, "auto"),
        ):
            found[title] = []
            for workload in workloads:
                if options.only in workload.name:
                    peer = keops if separation == "off" else None
                    found[title].append(measure(workload, peer, options.repeats, separation))
                    show(found[title][-1])
        found["against_pykeops"] = summary(found["workloads"])
        print(json.dumps(found["against_pykeops"]))
    if not options.no_save and not options.only:
        print(f"saved as {save('cpu', found)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
