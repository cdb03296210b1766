"""Workloads, ours and peers' -> medians of alternating calls, errors, ratios; where ours is worse."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ours import PAUSE_S, Ours
from peers.driver import Driver
from workloads import Array, Workload

LEAST_CALLS = 3  # of a peer, however slow
BUDGET_S = 1.5  # of a peer's timed calls on one workload
KINDS = ("cpu", "wall")
SAME = 1.05  # times an error: the same additions in another order differ by so much

Row = dict[str, Any]


@dataclass(frozen=True)
class Contest:
    """Who is compared, and how often.

    Args:
        drivers: one per peer.
        repeats: timed calls of ours, and the most of a peer.
    """

    drivers: tuple[Driver, ...]
    repeats: int

    def close(self) -> None:
        """End the peers' processes."""
        for driver in self.drivers:
            driver.stop()


class Timings:
    """Wall and CPU milliseconds of the calls of one contestant."""

    def __init__(self, first_call_s: float, errors: Row) -> None:
        self.first_call_s, self.errors = first_call_s, errors
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def add(self, wall_ms: float, cpu_ms: float) -> None:
        """One call."""
        self.wall.append(wall_ms)
        self.cpu.append(cpu_ms)

    def row(self) -> Row:
        """Medians."""
        return {
            "wall_ms": statistics.median(self.wall),
            "cpu_ms": statistics.median(self.cpu),
            "calls": len(self.wall),
            "first_call_s": self.first_call_s,
            **self.errors,
        }


class Turn:
    """A peer on one workload: `failed` has the reason once it has no timings to give."""

    def __init__(self, driver: Driver, workload: Workload, truth: Array, repeats: int) -> None:
        self.driver, self.workload, self.repeats = driver, workload, repeats
        answer = driver.ask(workload.name, first=True)
        self.is_absent, self.failed = "absent" in answer, str(answer.get("failed", ""))
        if self.is_absent or self.failed:
            return
        values = np.load(answer["result"])
        os.unlink(answer["result"])
        self.timings = Timings(answer["first_call_s"], errors(values, workload, truth))
        affordable = int(BUDGET_S * 1e3 / max(answer["wall_ms"], 1e-3))
        self.calls = max(min(LEAST_CALLS, repeats), min(affordable, repeats))

    def take(self, number: int) -> None:
        """Make the call of this round, if it is one of those over which the peer's calls are spread."""
        if self.is_absent or self.failed or number * self.calls % self.repeats >= self.calls:
            return
        time.sleep(PAUSE_S)
        answer = self.driver.ask(self.workload.name)
        self.failed = answer.get("failed", "")
        if not self.failed:
            self.timings.add(answer["wall_ms"], answer["cpu_ms"])

    def row(self, ours: Row) -> Row | None:
        """Medians and ratios to ours; None if the peer does not apply."""
        if self.is_absent:
            return None
        if self.failed:
            return {"failed": self.failed}
        row = self.timings.row()
        of_error = ours["rms_error"] / row["rms_error"] if row["rms_error"] else float(ours["rms_error"] > 0)
        return (
            row
            | {f"faster_{kind}": row[f"{kind}_ms"] / ours[f"{kind}_ms"] for kind in KINDS}
            | {"of_error": of_error}
        )


def errors(values: Array, workload: Workload, truth: Array) -> Row:
    """Largest and root mean square difference to float64 NumPy on the compared rows, relative to the largest value
    there.

    Of places, the share of those that differ, as that of the 3rd nearest point says nothing by its size.
    """
    found = values[: len(truth)].reshape(truth.shape)
    if "Arg" in workload.reduction and not workload.wrt:
        share = float((found != truth).mean())
        return {"error": share, "rms_error": share}
    relative = np.abs(found - truth) / (np.abs(truth).max() or 1.0)
    return {"error": float(relative.max()), "rms_error": float(np.sqrt(np.square(relative).mean()))}


def measure(workload: Workload, contest: Contest, separation: str = "off") -> Row:
    """Ours and each peer in turn, call by call."""
    ours = Ours(workload, separation)
    truth = workload.exact(ours.shape)
    timings = Timings(ours.first_call_s, errors(ours.values, workload, truth))
    turns = [Turn(driver, workload, truth, contest.repeats) for driver in contest.drivers]
    for number in range(contest.repeats):
        time.sleep(PAUSE_S)
        timings.add(*ours.time())
        for turn in turns:
            turn.take(number)
    row: Row = {"workload": workload.name, "ours": timings.row()}
    if turns:
        row["peers"] = {turn.driver.peer.name: turn.row(row["ours"]) for turn in turns}
    return row


def _timed(rows: Iterable[Row], peer: str) -> list[tuple[str, Row]]:
    found = [(row["workload"], row.get("peers", {}).get(peer)) for row in rows]
    return [(name, figures) for name, figures in found if figures and "failed" not in figures]


def summary(rows: Sequence[Row]) -> Row:
    """Per peer the geometric mean and the least of the ratios and where that is; all in which ours is worse."""
    names = dict.fromkeys(peer for row in rows for peer in row.get("peers", {}))
    against: Row = {}
    slower, less_exact = [], []
    for peer in names:
        timed = _timed(rows, peer)
        against[peer] = {"workloads": len(timed)}
        for kind in KINDS if timed else ():
            ratios = {name: figures[f"faster_{kind}"] for name, figures in timed}
            least = min(ratios, key=ratios.__getitem__)
            against[peer] |= {
                f"{kind}_geomean": statistics.geometric_mean(ratios.values()),
                f"{kind}_least": ratios[least],
                f"{kind}_least_at": least,
            }
            slower += [
                {"workload": name, "peer": peer, "kind": kind, "faster": ratio}
                for name, ratio in ratios.items()
                if ratio < 1
            ]
        less_exact += [
            {"workload": name, "peer": peer, "of_error": figures["of_error"]}
            for name, figures in timed
            if figures["of_error"] > SAME
        ]
        failed = {
            row["workload"]: figures["failed"]
            for row in rows
            if (figures := row.get("peers", {}).get(peer)) and "failed" in figures
        }
        if failed:
            against[peer]["failed"] = failed
    return {"against": against, "slower_than": slower, "less_exact_than": less_exact} if names else {}


def lines(row: Row) -> Iterable[str]:
    """One line for ours and one per peer that applies."""
    yield f"{row['workload']:<22} {_figures(row['ours'])}"
    for peer, figures in row.get("peers", {}).items():
        if figures and "failed" in figures:
            yield f"    {peer:<18} failed: {figures['failed'][:100]}"
        elif figures:
            ratios = f"{figures['faster_cpu']:7.2f}x cpu {figures['faster_wall']:7.2f}x wall"
            slower = "   OURS IS SLOWER" if min(figures["faster_cpu"], figures["faster_wall"]) < 1 else ""
            yield f"    {peer:<18} {_figures(figures)} {ratios} {figures['of_error']:5.2f}x error{slower}"


def _figures(figures: Row) -> str:
    times = f"{figures['cpu_ms']:9.2f} ms cpu {figures['wall_ms']:9.2f} ms wall"
    errors = f"error {figures['rms_error']:.1e}, at most {figures['error']:.0e}"
    return f"{times}  (first {figures['first_call_s']:5.2f} s, {errors}, {figures['calls']:>2})"


def summary_lines(found: Row) -> Iterable[str]:
    """The summary as text."""
    for peer, figures in found.get("against", {}).items():
        for kind in KINDS if "cpu_least" in figures else ():
            mean, least, at = (figures[f"{kind}_{word}"] for word in ("geomean", "least", "least_at"))
            mean_of = f"{mean:7.2f}x in geometric mean of {figures['workloads']}"
            yield f"{kind:<4} time against {peer:<11} {mean_of}, least {least:.2f}x ({at})"
        for name, reason in figures.get("failed", {}).items():
            yield f"     {peer} failed on {name}: {reason[:100]}"
    for case in found.get("slower_than", ()):
        where = f"{case['peer']} on {case['workload']}"
        yield f"SLOWER than {where}: {case['faster']:.2f}x as fast in {case['kind']} time"
    for case in found.get("less_exact_than", ()):
        yield f"LESS EXACT than {case['peer']} on {case['workload']}: {case['of_error']:.2f}x its error"
    if found.get("slower_than") == []:
        yield "nowhere slower than a peer"
