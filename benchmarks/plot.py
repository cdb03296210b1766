"""results/cpu.json -> results/cpu.svg: how many times as fast as pykeops each one is, workload by workload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from machine import RESULTS, load_sections
from peers import KEOPS, PEERS

SECTIONS = ("workloads", "backward", "drawn")
OURS = "#8fb4dc"
MARKS = "osD^v<>"  # one per peer


def speedups(row: dict[str, Any]) -> dict[str, float]:
    """Of ours and of each peer, in CPU time; empty where pykeops has no time."""
    peers = {peer: figures for peer, figures in (row.get("peers") or {}).items() if figures}
    keops_ms = peers.get(KEOPS.name, {}).get("cpu_ms")
    if not keops_ms:
        return {}
    others = {peer: keops_ms / figures["cpu_ms"] for peer, figures in peers.items() if "cpu_ms" in figures}
    return {"ours": keops_ms / row["ours"]["cpu_ms"]} | others


def draw() -> Path | None:
    """Save the figure; the same results give the same file. None if nothing was compared with pykeops yet."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams |= {"svg.hashsalt": "farfield", "svg.fonttype": "none", "font.size": 9}
    import matplotlib.pyplot as plt

    rows = [row for section in load_sections("cpu", SECTIONS).values() for row in section["rows"]]
    found = {row["workload"]: ratios for row in rows if (ratios := speedups(row))}
    if not found:
        return None
    names = list(found)[::-1]
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.23 * len(names)), layout="constrained")
    widths = [found[name]["ours"] - 1 for name in names]
    axes.barh(names, widths, left=1, color=OURS, height=0.6, label="Farfield")
    for peer, mark in zip((peer.name for peer in PEERS if peer is not KEOPS), MARKS, strict=True):
        points = [(found[name][peer], name) for name in names if peer in found[name]]
        if points:
            axes.plot(*zip(*points, strict=True), mark, color="black", mfc="none", ms=4, lw=0, label=peer)
    axes.axvline(1, color="black", lw=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("CPU time of pykeops / CPU time: right is faster, pykeops is 1")
    axes.margins(y=0.01)
    axes.grid(axis="x", which="major", lw=0.4)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    path = RESULTS / "cpu.svg"
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return path
