"""Every formula of `formulas/` by Farfield, by pykeops and by NumPy: do they agree, and if not, who is right?

    make bench-agreement
    .venv/bin/python benchmarks/agreement.py --folder FOLDER --minutes 10    # in pieces: run it again to go on

Values and the gradients of all arguments are compared, on the CPU. Farfield is called through `farfield.numpy`;
the peer runs in a process and an environment of its own (peer_agreement.py), one compile at a time, and keeps each
answer in FOLDER, so that a later run computes only what is missing. Farfield must also agree with NumPy in
float64, and at generic points its gradients with differences of NumPy's values.

Where the peer gives another result, the row of the table says why, and the report prints the worst point: ours,
the peer's, NumPy's. The exit status is 1 if a difference has no reason, a reason no difference, if Farfield
differs from NumPy or refuses a formula; it is 2 if the peer has not computed all rows yet.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from formulas import ROWS
from formulas.row import Array, Row
from machine import save

import farfield
from farfield.numpy import Genred

HERE = Path(__file__).parent
RTOL = {"float64": 1e-12, "float32": 2e-5}
STEP, SLOPE_RTOL = 1e-6, 1e-6  # of differences of NumPy's values
SHORT_STEP, SHORT_RTOL = 1e-8, 1e-4  # where the formula jumps: fewer pairs jump within the step
SAMPLED = 3  # components of each gradient that are compared with differences

FAILURES = ("differs without a reason", "has a reason but agrees", "is not what NumPy gives", "is refused here")
AGREES, EXPLAINED = "agrees", "differs for the reason given"
UNASKED = "is not computed by the peer yet"
PEER_CANNOT = "cannot be computed by the peer"
NO_GRADIENT = "agrees in value; the peer gives no gradient"
VERDICTS = (AGREES, NO_GRADIENT, EXPLAINED, PEER_CANNOT, UNASKED, *FAILURES)

# ---- three answers -------------------------------------------------------------------------------------------


@dataclass
class Answer:
    """Results and gradients of one program, or why there are none."""

    results: list[Array] = field(default_factory=list)
    gradients: list[Array | None] = field(default_factory=list)
    error: str = ""
    gradient_error: str = ""


def ours(row: Row) -> Answer:
    """By the public NumPy client."""
    words: dict[str, Any] = {} if row.K is None else {"opt_arg": row.K}
    if row.weights is not None:
        words["formula2"] = row.weights
    arrays = row.arrays()
    try:
        routine = Genred(row.formula, row.declared, reduction_op=row.reduction, axis=row.axis, **words)
        results = routine(*arrays)
    except farfield.FarfieldError as error:
        return Answer(error=_line(error))
    answer = Answer(results=list(results) if isinstance(results, tuple) else [results])
    if answer.results[0].dtype.kind == "f":
        try:
            answer.gradients = list(routine.vjp(row.cotangent(answer.results[0].shape), *arrays))
        except farfield.FarfieldError as error:
            answer.gradient_error = _line(error)
    return answer


def peer(row: Row, folder: Path) -> Answer | None:
    """What the peer left in the folder."""
    file = folder / f"{row.key}.npz"
    if not file.exists():
        return None
    with np.load(file) as kept:
        return Answer(
            results=[kept[name] for name in sorted(kept) if name.startswith("result")],
            gradients=[kept.get(f"gradient{k}") for k in range(len(row.variables))],
            error=str(kept["error"]) if "error" in kept else "",
            gradient_error=str(kept["gradient_error"]) if "gradient_error" in kept else "",
        )


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0]}"[:200]


def slope(row: Row, variable: int, place: tuple[int, ...]) -> float:
    """The derivative of sum(cotangent * result) at one component of one argument, by differences of NumPy's."""
    step = STEP if row.is_continuous else SHORT_STEP

    def results(steps: int) -> Array:
        arrays = [array.astype(np.float64) for array in row.arrays()]
        arrays[variable][place] += steps * step
        return row.exact(arrays)[0]

    def change(steps: int) -> Array:
        above, below = results(steps), results(-steps)
        return np.where(above == below, 0, above - below)

    with np.errstate(all="ignore"):
        rise = (8 * change(1) - change(2)) / (12 * step)
    rise = row.cotangent(rise.shape) * rise
    if row.variables[variable].word == ("Vi" if row.axis == 1 else "Vj"):  # one row depends on it
        rise = rise[place[0]]
    return float(rise.sum())


# ---- the judge -----------------------------------------------------------------------------------------------


@dataclass
class Difference:
    """One array in which two answers differ: in how many of its components, of how many, and the worst of them."""

    what: str
    components: int
    of: int
    place: tuple[int, ...]
    ours: float
    peer: float
    numpy: float


@dataclass
class Judgement:
    """What became of one row."""

    row: Row
    verdict: str
    note: str = ""
    differences: list[Difference] = field(default_factory=list)


def worst(row: Row, a: Array, b: Array, rtol: float) -> tuple[int, tuple[int, ...]]:
    """In how many components a and b differ, and where most.

    Relative to the largest of b's column and 1; where values are singular, to b's component itself.
    """
    if a.shape != b.shape:
        return b.size, ()
    if a.size == 0:
        return 0, ()
    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(all="ignore"):
        size = np.where(np.isfinite(b), np.abs(b), 0)
        scale = np.maximum(size.max(0, keepdims=True), 1) if row.is_smooth else size
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        excess = np.where(same, 0, np.abs(a - b) / (rtol * scale + np.finfo(row.dtype).tiny))
    excess = np.where(np.isnan(excess), np.inf, excess)
    place = np.unravel_index(int(excess.argmax()), excess.shape)
    return int((excess > 1).sum()), tuple(int(k) for k in place)


def differences(row: Row, mine: Answer, other: Answer, exact: list[Array]) -> list[Difference]:
    """Ours against the peer's, array by array."""
    rtol, found = RTOL[row.dtype], []
    for k, (a, b) in enumerate(zip(mine.results, other.results, strict=False)):
        count, place = worst(row, a, b, rtol)
        if count:
            what = f"result {k}" if a.shape == b.shape else f"result {k}, of shape {a.shape} here, {b.shape} there"
            found.append(
                Difference(what, count, b.size, place, _at(a, place), _at(b, place), _at(exact[k], place))
            )
    for k, (a, b) in enumerate(zip(mine.gradients, other.gradients, strict=False)):
        if a is None or b is None:
            continue
        count, place = worst(row, a, b, rtol * 10)
        if count:
            what = f"gradient in {row.variables[k].name}"
            found.append(
                Difference(what, count, b.size, place, _at(a, place), _at(b, place), slope(row, k, place))
            )
    return found


def _at(array: Array, place: tuple[int, ...]) -> float:
    return float(array[place]) if len(place) == array.ndim else float("nan")


def against_numpy(row: Row, mine: Answer, exact: list[Array], other: list[Difference]) -> list[Difference]:
    """Ours against NumPy: all values, and at generic points some components of each gradient.

    Among them are those where the gradient differs most from the peer's.
    """
    found = []
    for k, (a, b) in enumerate(zip(mine.results, exact, strict=True)):
        count, place = worst(row, a, b, RTOL[row.dtype])
        if count:
            found.append(
                Difference(f"result {k}", count, b.size, place, _at(a, place), float("nan"), _at(b, place))
            )
    if row.dtype == "float32" or not row.is_smooth:
        return found
    rtol = SLOPE_RTOL if row.is_continuous else SHORT_RTOL
    for k, gradient in enumerate(mine.gradients):
        if gradient is None:
            continue
        what = f"gradient in {row.variables[k].name}"
        numbers = np.linspace(0, gradient.size - 1, min(SAMPLED, gradient.size)).astype(int)
        places = [tuple(int(p) for p in np.unravel_index(number, gradient.shape)) for number in numbers]
        places += [difference.place for difference in other if difference.what == what and difference.place]
        for place in places:
            expected, got = slope(row, k, place), float(gradient[place])
            if not abs(got - expected) <= rtol * (abs(expected) + float(np.abs(gradient).max()) + 1e-2):
                found.append(Difference(what, 1, gradient.size, place, got, float("nan"), expected))
    return found


def judge(row: Row, mine: Answer, other: Answer | None) -> Judgement:
    """One row's verdict."""
    without, idle, wrong, refused = FAILURES
    if mine.error:
        return Judgement(row, refused, mine.error)
    exact = [np.asarray(result) for result in row.exact(row.arrays())]
    found = differences(row, mine, other or Answer(), exact)
    if errors := against_numpy(row, mine, exact, found):
        return Judgement(row, wrong, row.differs, errors)
    if other is None:
        return Judgement(row, UNASKED)
    if other.error:
        return Judgement(row, PEER_CANNOT, other.error)
    if found:
        return Judgement(row, EXPLAINED if row.differs else without, row.differs, found)
    if row.differs:
        return Judgement(row, idle, row.differs)
    if mine.gradient_error:
        return Judgement(row, refused, mine.gradient_error)
    if other.gradient_error:
        return Judgement(row, NO_GRADIENT, other.gradient_error)
    return Judgement(row, AGREES)


# ---- the report ----------------------------------------------------------------------------------------------


def words(row: Row) -> str:
    """A row in one line."""
    drawn = ", ".join(v.alias + (f" {v.draw}" if v.draw != "real" else "") for v in row.variables)
    extra = (f", K={row.K}" if row.K else "") + (f", weights {row.weights}" if row.weights else "")
    return f"{row.reduction}[{'j' if row.axis else 'i'}] {row.formula}{extra}   ({drawn}; {row.dtype})"


def report(judgements: list[Judgement]) -> None:
    """Counts by section, then each row that does not simply agree."""
    sections = list(dict.fromkeys(j.row.section for j in judgements))
    used = [verdict for verdict in VERDICTS if any(j.verdict == verdict for j in judgements)]
    print(f"\n{'':<34}" + "".join(f"{letter:>7}" for letter in "ABCDEFGHIJ"[: len(used)]) + "    all")
    for section in [*sections, ""]:
        counts = collections.Counter(j.verdict for j in judgements if section in ("", j.row.section))
        cells = "".join(f"{counts[verdict] or '.':>7}" for verdict in used)
        print(f"{section or 'all':<34}{cells}{sum(counts.values()):>7}")
    for letter, verdict in zip("ABCDEFGHIJ", used, strict=False):
        print(f"    {letter}  {verdict}")
    for verdict in used:
        chosen = [j for j in judgements if j.verdict == verdict]
        if verdict == AGREES:
            continue
        print(f"\n== {verdict} ({len(chosen)})")
        for note in dict.fromkeys(j.note for j in chosen):
            if note:
                print(f"\n  {note}")
            for judgement in (j for j in chosen if j.note == note):
                print(f"    {words(judgement.row)}")
                for d in judgement.differences:
                    at = ", ".join(map(str, d.place))
                    where = f"{d.what}, {d.components} of {d.of} components, most at [{at}]"
                    print(f"        {where}: ours {d.ours!r}, peer {d.peer!r}, NumPy {d.numpy!r}")


def plain(judgement: Judgement) -> dict[str, Any]:
    """For JSON, in which NaN and infinities are text."""
    row = judgement.row
    points = [
        {
            name: value if name in ("what", "components", "of", "place") else repr(value)
            for name, value in asdict(d).items()
        }
        for d in judgement.differences
    ]
    return {
        "section": row.section,
        "formula": words(row),
        "verdict": judgement.verdict,
        **({"note": judgement.note} if judgement.note else {}),
        **({"worst_points": points} if points else {}),
    }


# ---- the run -------------------------------------------------------------------------------------------------


def start_peer(python: str, folder: Path) -> subprocess.Popen[bytes]:
    """The peer's program, politely: it compiles for minutes."""
    environment = os.environ | {"KEOPS_CACHE_FOLDER": str(folder / "keops"), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    program = [python, str(HERE / "peer_agreement.py"), str(folder)]
    log = (folder / "peer.log").open("ab")
    return subprocess.Popen(["nice", "-n", "10", *program], env=environment, stdout=log, stderr=log)


def finish_peer(process: subprocess.Popen[bytes], python: str, folder: Path, stop_at: float) -> None:
    """Wait; a formula that ended the process is skipped at the next start."""
    while True:
        try:
            status = process.wait(max(0.0, stop_at - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
            (folder / "running").unlink(missing_ok=True)
            return
        if status == 0 or not (folder / "running").exists():
            return
        process = start_peer(python, folder)


def main() -> int:
    """Compute, compare, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()) / "farfield-agreement",
        help="where the peer's answers are kept (default: %(default)s)",
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="how long to wait for the peer (default: 60)")
    parser.add_argument("--peers-python", default=str(HERE.parent / ".venv-peers/bin/python"))
    parser.add_argument("--no-save", action="store_true", help="print only")
    options = parser.parse_args()
    stop_at = time.monotonic() + 60 * options.minutes
    options.folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("FARFIELD_CACHE_DIR", str(options.folder / "farfield"))
    os.environ.pop("FARFIELD_URL", None)
    process = start_peer(options.peers_python, options.folder)
    mine = [ours(row) for row in ROWS]
    finish_peer(process, options.peers_python, options.folder, stop_at)
    judgements = [judge(row, answer, peer(row, options.folder)) for row, answer in zip(ROWS, mine, strict=True)]
    report(judgements)
    versions = json.loads((options.folder / "versions.json").read_text())
    versions |= {"farfield": farfield.__version__, "numpy": np.__version__}
    counts = collections.Counter(j.verdict for j in judgements)
    if not options.no_save:
        content = {"versions": versions, "counts": counts, "rows": [plain(j) for j in judgements]}
        print(f"\nsaved as {save('agreement', content)}")
    if any(counts[failure] for failure in FAILURES):
        return 1
    return 2 if counts[UNASKED] else 0


if __name__ == "__main__":
    sys.exit(main())
