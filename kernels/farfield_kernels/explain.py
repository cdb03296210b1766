"""Spec -> text: how a call is computed, stage by stage, without computing it."""

from __future__ import annotations

from .arguments import Sizes
from .build import numpy_reason
from .choices import chosen, per_pair, walk
from .divide import way_of
from .execute import Work
from .expr import Const, Expr, Index, Var, topological
from .lower import Level, Program
from .machine import Limits, kept_limits
from .operation import Operation, Reduce, Spec, read
from .predict import Prediction, Rates, predict
from .roll import roll
from .schedule import Device
from .separate import GAIN, LEAST_PAIRS
from .stages import Emitted, Plan, Separated, Stage, plan_call, simplified
from .terms import Term, expand


def explain(
    spec: Spec,
    dtype: str = "float32",
    device: Device = "cpu",
    *,
    sizes: tuple[int, int] | None = None,
    with_source: bool = True,
) -> str:
    """The typed graph of each formula, the levels and cost of each kernel, its schedule and its source.

    Args:
        spec: the call.
        dtype: `float32` or `float64`.
        device: `cpu` or `cuda`; no device is needed.
        sizes: M and N, to say which of the kernels a call of these sizes would run, and why, how a server with
            two workers cuts it if it is long, how long it will take, and how long at least, if this machine was
            measured (`farfield bench --machine`).
        with_source: whether the emitted source is included.
    """
    operation = read(spec)
    names = _names(operation)
    reason = numpy_reason() if device == "cpu" else None
    lines = [f"On this machine the kernels below run on NumPy, not as C++: {reason}", ""] if reason else []
    lines.append("Arguments")
    for place, slot in enumerate(operation.arguments):
        tail = ", ".join(map(str, slot.tail))
        rows = {"i": f"(M, {tail})", "j": f"(N, {tail})", "p": f"({tail},)"}[slot.axis]
        lines.append(f"  {place}  {names[place]:<8} {rows} {slot.dtype(dtype)}")
    for term in expand(operation):
        lines += ["", *_graph(simplified(term), names)]
    call = plan_call(spec, dtype, device)
    limits = kept_limits() if sizes and device == "cpu" else None
    for number, stage in enumerate(call.stages):
        separated = None if spec.separation == "off" else stage.separated
        lines += ["", f"Kernel {number + 1} of {len(call.stages)}, computes result {_listed(stage.results)}"]
        lines += _kernel(stage.emitted)
        lines += _separation(separated, spec.separation)
        if sizes:
            lines += chosen(Work(call, Sizes(dtype, *sizes), None, spec.separation), stage, limits)
            lines.append(f"  pieces     {_pieces(call, stage, Sizes(dtype, *sizes), spec.separation)}")
        if with_source:
            lines += ["", stage.emitted.source]
        if separated:
            for part, emitted in enumerate(separated.kernels):
                kind = "rows" if emitted is separated.rows else "columns"
                lines += ["", f"Kernel {number + 1}, separated: pass {part + 1} over {kind}", *_kernel(emitted)]
                if with_source:
                    lines += ["", emitted.source]
    if sizes:
        of_call = Sizes(dtype, *sizes, (), ((),) * len(names))
        lines += ["", _memory(predict(spec, of_call, device))]
        if device == "cpu" and not reason:
            lines.append(_expected(spec, of_call, limits))
    if call.zeros:
        lines += ["", f"Results {_listed(call.zeros)} are zero whatever the data."]
    return "\n".join(lines)


def _pieces(call: Plan, stage: Stage, sizes: Sizes, separation: str) -> str:
    """How a server with two workers cuts a kernel of a long call."""
    if call.zeros:
        return "whole: the call has results that are zero whatever the data"
    return way_of(stage, call.operation, sizes, separation, 2).words


def _memory(prediction: Prediction) -> str:
    """What a call holds, by which a server refuses one that cannot fit."""
    arguments, results, device = prediction.argument_bytes, prediction.result_bytes, prediction.device_bytes
    return f"Memory      {arguments} bytes of arguments, {results} of results; {device} on a device"


def _expected(spec: Spec, sizes: Sizes, limits: Limits | None) -> str:
    """The time that is predicted for a call that was never made before."""
    rates, of = (Rates(limits.step_s), "this machine") if limits else (Rates(), "a slow machine")
    prediction = predict(spec, sizes)
    expected_ms = rates.seconds(spec, prediction) * 1e3
    return f"Expected    about {expected_ms:.3g} ms: {prediction.steps:.3g} steps at the rate of {of}"


def _names(operation: Operation) -> dict[int, str]:
    """What each argument is called: by its declaration, or e0, e1, ... for what derivatives add."""
    slots = operation.arguments
    while not isinstance(operation, Reduce):
        operation = operation.of
    own = len(operation.arguments)
    return {place: slot.name if place < own else f"e{place - own}" for place, slot in enumerate(slots)}


def _kernel(emitted: Emitted) -> list[str]:
    return [*_levels(emitted.program), *per_pair(emitted), *_loops(emitted), walk(emitted)]


def _loops(emitted: Emitted) -> list[str]:
    """What is done by loops over components rather than by straight text."""
    if emitted.schedule.device != "cpu":
        return []
    rolls = roll(emitted.program)
    found = [f"a sum over {fold.body.count} components" for fold in rolls.folds]
    found += [f"{family.body.count} results" for family in rolls.components]
    found += [f"{family.body.count} weights" for family in rolls.weights]
    return [f"  loops      {', '.join(found)}"] if found else []


def _separation(separated: Separated | None, word: str) -> list[str]:
    """Whether the sum is computed without visiting every pair, and when."""
    if word == "off":
        return ["  separation is off"]
    if separated is None:
        return ["  separation no: only a Sum of few products of a row's and a column's part separates"]
    rank = sum(separation.rank for separation in separated.separations)
    least = max(GAIN * (separation.rank + 1) for separation in separated.separations)
    sizes = "always" if word == "on" else f"where M N > {least} (M + N) and M N >= {LEAST_PAIRS}"
    return [
        f"  separation rank {rank}: passes over columns {len(separated.columns)}, over rows 1, in float64,",
        f"             {sizes}, without batch axes or ranges; results that would",
        "             be less accurate than those of this kernel are computed by this kernel",
    ]


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))


def _graph(term: Term, names: dict[int, str]) -> list[str]:
    kept = "one vector" if term.keep == "p" else f"one row per {term.keep}"
    roots = [term.formula] if term.weights is None else [term.formula, term.weights]
    lines: list[str] = []
    numbers: dict[int, int] = {}
    for node in topological(roots):
        numbers[id(node)] = len(numbers)
        axes = "".join(sorted(node.axes)) or "-"
        lines.append(f"  %{numbers[id(node)]:<3} dim {node.dim:<4} {axes:<3} {_node(node, numbers, names)}")
    formula, *weights = (f"%{numbers[id(root)]}" for root in roots)
    weighted = f", weighted by {weights[0]}" if weights else ""
    lines.insert(0, f"{term.reduction.name}, {kept}, of {formula}{weighted}")
    return lines


def _node(node: Expr, numbers: dict[int, int], names: dict[int, str]) -> str:
    if isinstance(node, Var):
        return names[node.position]
    if isinstance(node, Const):
        return f"{node.value:g}"
    if isinstance(node, Index):
        return f"{node.half} half of the number of {node.axis}"
    assert node.op is not None
    arguments = [f"%{numbers[id(operand)]}" for operand in node.operands] + [str(p) for p in node.params]
    return f"{node.op.name}({', '.join(arguments)})"


def _levels(program: Program) -> list[str]:
    often: dict[Level, str] = {
        "constant": "never (constants)",
        "p": "once per call",
        "row": f"once per {program.row_axis}",
        "col": f"once per {'i' if program.row_axis == 'j' else 'j'}",
        "pair": "once per pair (i, j)",
    }
    lines = []
    for level, words in often.items():
        values = [program.values[number] for number in program.at(level)]
        computed = [value.code for value in values if not value.is_load and value.args]
        if values and level != "constant":
            exps = sum(code.startswith(("exp(", "exp2(")) for code in computed)
            loads = sum(value.is_load for value in values)
            lines.append(f"  {words:<22} {len(computed)} operations ({exps} exp), {loads} values read")
    return lines
