"""pykeops, driven by agreement.py: run by the peers' Python, computes the rows that FOLDER lacks.

    python peer_agreement.py FOLDER

One file per row, FOLDER/KEY.npz: `result0`, ... and `gradient0`, ..., or the text `error` or `gradient_error`.

A kernel takes the peer some eight seconds to compile, so sums and selections are computed in groups, whose
formulas become the parts of one vector. The gradients of the group's sums by all variables of one axis are then
one vector too, of the peer's own `Grad(formula, variable, cotangent)`: the formulas that its torch binding makes.
Other reductions are differentiated through that binding. What raises is computed again in halves. A group that
ended the process is found in FOLDER/running at the next start, and computed row by row.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("KEOPS_VERBOSE", "0")
os.environ.setdefault("PYKEOPS_VERBOSE", "0")

import numpy as np
import torch
from formulas import ROWS
from formulas.row import Array, Row, Variable
from keopscore.formulas.GetReduction import GetReduction
from pykeops.torch import Genred

GROUPED = frozenset("Sum Max Min ArgMax ArgMin Max_ArgMax Min_ArgMin KMin ArgKMin KMin_ArgKMin".split())
GROUP = 24  # rows of one kernel
CATEGORY = {"Vi": 0, "Vj": 1, "Pm": 2}

Answer = dict[str, Array]


def is_grouped(row: Row) -> bool:
    """The peer reduces each component alone, and the row says nothing about how variables are declared."""
    return row.reduction in GROUPED and not row.aliases


def groups(rows: list[Row]) -> Iterator[list[Row]]:
    """Rows to compute together."""
    kinds: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        words = {variable.word for variable in row.variables}
        kind = (row.reduction, row.axis, row.K, row.dtype, "Pm" in words and row.reduction == "Sum")
        kinds.setdefault(kind if is_grouped(row) else (row.key,), []).append(row)
    for members in kinds.values():
        for start in range(0, len(members), GROUP):
            yield members[start : start + GROUP]


def joined(formulas: list[str]) -> str:
    """One vector of all, as a balanced tree."""
    if len(formulas) == 1:
        return formulas[0]
    half = len(formulas) // 2
    return f"Concat({joined(formulas[:half])},{joined(formulas[half:])})"


class Group:
    """Rows with one reduction, and their distinct variables under names of the group."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows
        distinct = dict.fromkeys(variable for row in rows for variable in row.variables)
        self.names = {variable: f"v{k}_" for k, variable in enumerate(distinct)}
        self.arrays = [torch.from_numpy(variable.array(rows[0].dtype)) for variable in distinct]
        self.aliases = [f"{name} = {v.word}({v.dim})" for v, name in self.names.items()]
        places = [f"{name}=Var({k},{v.dim},{CATEGORY[v.word]})" for k, (v, name) in enumerate(self.names.items())]
        self.places = [*places, f"cotangent_=Var({len(places)},100000,0)"]
        self.texts = [self.text(row) for row in rows]

    def text(self, row: Row) -> str:
        """The row's formula over the group's names."""
        own = {variable.name: self.names[variable] for variable in row.variables}
        return re.sub(rf"\b({'|'.join(own)})\b", lambda found: own[found[1]], row.formula)

    def dim(self, text: str) -> int:
        """As the peer reads a formula; raises what it raises."""
        return int(GetReduction(f"Sum_Reduction({text},0)", self.places).formula.dim)


def genred(row: Row, formula: str, aliases: list[str], arrays: list[torch.Tensor], axis: int) -> Any:
    """The peer's results."""
    words: dict[str, Any] = {} if row.K is None else {"opt_arg": row.K}
    if row.weights is not None:
        words["formula2"] = row.weights
    return Genred(formula, aliases, reduction_op=row.reduction, axis=axis, **words)(*arrays, backend="CPU")


def forward(group: Group, answers: list[Answer]) -> torch.Tensor:
    """Fill in the results, and give those of all rows together."""
    dims = [group.dim(text) for text in group.texts]
    first = group.rows[0]
    arrays = [array.requires_grad_(first.reduction != "Sum") for array in group.arrays]
    results = genred(first, joined(group.texts), group.aliases, arrays, first.axis)
    results = results if isinstance(results, tuple) else (results,)
    for k, result in enumerate(results):
        stop = 0
        for answer, dim in zip(answers, dims, strict=True):
            start, stop = stop, stop + dim
            part = result if len(dims) == 1 else result[..., start:stop]
            squeezed = len(dims) > 1 and first.K is not None and dim == 1
            answer[f"result{k}"] = (part[..., 0] if squeezed else part).detach().numpy()
    return results[0]


def backward(group: Group, answers: list[Answer]) -> None:
    """Fill in the gradients of sums: what the peer makes of them, variable by variable."""
    first = group.rows[0]
    cotangents = [row.cotangent(answer["result0"].shape) for row, answer in zip(group.rows, answers, strict=True)]
    stops = np.cumsum([cotangent.shape[-1] for cotangent in cotangents])
    for word, axis in (("Vi", 1), ("Vj", 0), ("Pm", 1)):
        wanted: list[tuple[Answer, int, str, Variable]] = []
        for row, text, answer, cotangent, stop in zip(
            group.rows, group.texts, answers, cotangents, stops, strict=True
        ):
            for k, variable in enumerate(row.variables):
                if variable.word != word:
                    continue
                dim = cotangent.shape[-1]
                formula = f"Grad({text},{group.names[variable]},Extract(cotangent_,{stop - dim},{dim}))"
                try:
                    got = group.dim(formula)
                except Exception as error:  # whatever the peer raises is its answer
                    answer["gradient_error"] = np.array(f"in {variable.name}: {reason(error)}")
                    continue
                if got != variable.dim:
                    answer["gradient_error"] = np.array(
                        f"in {variable.name}: of dim {got}, where the variable has dim {variable.dim}"
                    )
                else:
                    wanted.append((answer, k, formula, variable))
        if not wanted:
            continue
        aliases = [*group.aliases, f"cotangent_ = {'Vi' if first.axis == 1 else 'Vj'}({stops[-1]})"]
        arrays = [*group.arrays, torch.from_numpy(np.concatenate(cotangents, -1))]
        result = genred(first, joined([formula for _, _, formula, _ in wanted]), aliases, arrays, axis).numpy()
        start = 0
        for answer, k, _, variable in wanted:
            part = result[..., start : start + variable.dim]
            start += variable.dim
            answer[f"gradient{k}"] = part.sum(0) if word == "Pm" else part


def alone(row: Row) -> Answer:
    """Through the torch binding, as it stands."""
    arrays = [torch.from_numpy(array).requires_grad_() for array in row.arrays()]
    results = genred(row, row.formula, row.declared, arrays, row.axis)
    results = results if isinstance(results, tuple) else (results,)
    answer = {f"result{k}": result.detach().numpy() for k, result in enumerate(results)}
    try:
        cotangent = torch.from_numpy(row.cotangent(results[0].shape))
        for k, gradient in enumerate(torch.autograd.grad(results[0], arrays, cotangent, allow_unused=True)):
            answer[f"gradient{k}"] = (torch.zeros_like(arrays[k]) if gradient is None else gradient).numpy()
    except Exception as error:
        answer["gradient_error"] = np.array(reason(error))
    return answer


def compute(rows: list[Row]) -> list[Answer]:
    """Results and gradients of each row of a group."""
    if not is_grouped(rows[0]):
        return [alone(row) for row in rows]
    group = Group(rows)
    answers: list[Answer] = [{} for _ in rows]
    values = forward(group, answers)
    if rows[0].reduction == "Sum":
        backward(group, answers)
    elif not rows[0].reduction.startswith("Arg"):
        try:
            torch.autograd.grad(values.sum(), group.arrays, allow_unused=True)
        except NotImplementedError as error:
            for answer in answers:
                answer["gradient_error"] = np.array(reason(error))
        else:  # the peer has learnt it
            return [alone(row) for row in rows]
    return answers


def reason(error: BaseException) -> str:
    """The first sentence, without the place in the peer's files."""
    text = " ".join(str(error).split()).partition(" (error at line")[0]
    return f"{type(error).__name__}: {re.split(r'[.](?=[A-Z ])', text)[0]}"[:200]


def settle(rows: list[Row], folder: Path) -> None:
    """Compute a group and keep its answers; what cannot be read, and then halves, if it raises."""
    running = folder / "running"
    running.write_text("\n".join(row.key for row in rows))
    try:
        answers = compute(rows)
    except (Exception, SystemExit) as error:
        if len(rows) > 1:
            good = [row for row in rows if is_readable(row)]
            parts = [good, *([row] for row in rows if row not in good)]
            if len(good) == len(rows):
                parts = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
            for part in filter(None, parts):
                settle(part, folder)
            return
        answers = [{"error": np.array(reason(error))}]
    for row, answer in zip(rows, answers, strict=True):
        np.savez(folder / f"{row.key}.npz", **answer)
    running.unlink(missing_ok=True)
    print(len(rows), rows[0].section, rows[0].formula, *[a["error"] for a in answers if "error" in a], flush=True)


def is_readable(row: Row) -> bool:
    """The peer reads the formula."""
    group = Group([row])
    try:
        return group.dim(group.texts[0]) > 0
    except Exception:
        return False


def main() -> None:
    """Compute what is missing."""
    folder = Path(sys.argv[1])
    versions = {name: version(name) for name in ("pykeops", "keopscore", "torch", "numpy")}
    (folder / "versions.json").write_text(json.dumps({f"peer's {name}": text for name, text in versions.items()}))
    running = folder / "running"
    missing = {row.key: row for row in ROWS if not (folder / f"{row.key}.npz").exists()}
    if running.exists():
        ended = [missing.pop(key) for key in running.read_text().split() if key in missing]
        if len(ended) == 1:
            np.savez(folder / f"{ended[0].key}.npz", error=np.array("the process ended"))
        for row in ended if len(ended) > 1 else ():
            settle([row], folder)
    for rows in groups(list(missing.values())):
        settle(rows, folder)
    running.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
