"""Scalar programs and sources: levels, sharing, limits, and the same bytes in every process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from farfield_kernels.emit import MAX_SOURCE
from farfield_kernels.emit.statements import functions
from farfield_kernels.errors import FormulaError, LimitError
from farfield_kernels.expr import MAX_DEPTH, MAX_DIM, MAX_NODES
from farfield_kernels.lower import MAX_SCALARS, MAX_VALUES, Program
from farfield_kernels.operation import Spec
from farfield_kernels.parse import MAX_NESTING, MAX_TEXT
from farfield_kernels.schedule import Device
from farfield_kernels.stages import plan_call

SEED = Spec("Square(p-a)*Exp(x+y)", ("x = Vi(3)", "y = Vj(3)", "a = Vj(1)", "p = Pm(1)"))
GOLDEN = Path(__file__).with_name("golden")


def program(formula: str, *variables: str, axis: int = 1, reduction: str = "Sum") -> Program:
    """The program of a formula's only kernel."""
    (stage,) = plan_call(Spec(formula, variables, reduction, axis), "float32", "cpu").stages
    return stage.program


def codes(lowered: Program, level: str) -> list[str]:
    """The operations computed at a level, in order."""
    return [lowered.values[n].code for n in lowered.at(level) if lowered.values[n].code]  # type: ignore[arg-type]


def test_what_depends_on_one_axis_is_not_computed_per_pair() -> None:
    """Square(p-a) is computed once per column, Sin(x) once per row, Cos(p) once per call, x+y per pair."""
    lowered = program("Square(p-a)*Sin(x)*Cos(p)*Exp(x+y)", "x = Vi(1)", "y = Vj(1)", "a = Vj(1)", "p = Pm(1)")
    assert codes(lowered, "p") == ["cos($a)"]
    assert codes(lowered, "row") == ["sin($a)"]
    assert codes(lowered, "col") == ["$a - $b", "$a * $a"]
    assert sorted(codes(lowered, "pair")) == ["$a * $b"] * 3 + ["$a + $b", "exp($a)"]


def test_rows_and_columns_change_places_with_the_axis() -> None:
    """Reducing over i makes j the rows."""
    over_i = program("Sin(x)*Cos(y)", "x = Vi(1)", "y = Vj(1)", axis=0)
    assert over_i.row_axis == "j"
    assert (codes(over_i, "row"), codes(over_i, "col")) == (["cos($a)"], ["sin($a)"])


def test_equal_scalars_are_computed_once() -> None:
    """Common subexpressions and equal components of a repeated vector have one value."""
    lowered = program("Exp(x-y) + Exp(x-y)*SumT(Exp(x-y), 1)", "x = Vi(1)", "y = Vj(1)")
    assert codes(lowered, "pair").count("exp($a)") == 1
    repeated = program("Exp(SumT(x-y, 50))", "x = Vi(1)", "y = Vj(1)")
    assert codes(repeated, "pair") == ["$a - $b", "exp($a)"]
    assert len(repeated.components) == 50


def test_unread_components_and_arguments_are_dropped() -> None:
    """One component of a product needs two loads, and an argument that nothing reads none."""
    lowered = program("Elem(x*y, 2)", "x = Vi(30)", "y = Vj(30)", "unused = Vj(7)")
    assert len(lowered.values) == 3
    assert [position for position, _ in lowered.widths] == [0, 1]


def test_operations_are_bounded() -> None:
    """Neither many operations nor much sharing get past the limits; what is just below them is lowered."""
    wide = ("x = Vi(9000)", "y = Vj(9000)")
    assert len(program("Elem(x-y, 0)", "x = Vi(3000)", "y = Vj(3000)").values) == 3
    for formula, variables in (
        ("SqDist(x, y)", wide),
        ("SumT(Sum(Elem(x,0)*y), 65536) + SumT(Elem(x,1), 65536)", wide),
        ("TensorProd(SumT(Elem(x,0), 256), SumT(Elem(y,0), 256))", wide),
    ):
        with pytest.raises(LimitError) as caught:
            plan_call(Spec(formula, variables), "float32", "cpu")
        assert caught.value.limit in (MAX_VALUES, MAX_SCALARS)
        assert caught.value.field == "formula"


ALL_SOURCES = """
import hashlib
from farfield_kernels.operation import Spec
from farfield_kernels.stages import plan_call
seed = Spec("Square(p-a)*Exp(x+y)", ("x = Vi(3)", "y = Vj(3)", "a = Vj(1)", "p = Pm(1)"))
specs = [seed, seed.vjp((0, 1, 2, 3)), seed.vjp((0, 1)).vjp((0, 1, 2, 3, 4))]
formula, variables = "Log(Abs(x|y))*Sin(x)/Sqrt(SqDist(x,y))", ("x = Vi(3)", "y = Vj(3)")
specs += [Spec(formula, variables, reduction) for reduction in ("Max", "LogSumExp")]
for spec in specs:
    for dtype in ("float32", "float64"):
        for device in ("cpu", "cuda"):
            for stage in plan_call(spec, dtype, device).stages:
                for emitted in (stage.emitted, *(stage.separated.kernels if stage.separated else ())):
                    print(hashlib.sha256(emitted.source.encode()).hexdigest())
"""


def test_sources_are_the_same_in_every_process() -> None:
    """Byte for byte, whatever the seed of Python's string hashes."""
    printed = [
        subprocess.run(
            [sys.executable, "-c", ALL_SOURCES],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert printed[0] == printed[1]
    assert len(printed[0].split()) > 4 * (1 + 2 + 2 + 1 + 1)  # the passes of what separates besides


GOLDEN_SPECS = {
    "seed": SEED,
    "seed_gradients": SEED.vjp((0, 1, 2, 3)),
    "gaussian_logsumexp": Spec("-SqDist(x,y)*g", ("x = Vi(2)", "y = Vj(2)", "g = Pm(1)"), "LogSumExp"),
    "dot_max_argmax": Spec("x|y", ("x = Vi(2)", "y = Vj(2)"), "Max_ArgMax"),
    "both_axes": Spec("SqDist(x,y)", ("x = Vi(2)", "y = Vj(2)"), "Min_ArgMin", None),
    "wide": Spec("Exp(-SqDist(x,y))*b", ("x = Vi(12)", "y = Vj(12)", "b = Vj(10)")),
}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", GOLDEN_SPECS)
def test_emitted_source_is_the_golden_one(name: str, device: Device, request: pytest.FixtureRequest) -> None:
    """A change of emitted code shows as a diff of these files: `pytest --update-golden` writes them anew."""
    for place, stage in enumerate(plan_call(GOLDEN_SPECS[name], "float32", device).stages):
        path = GOLDEN / f"{name}_{place}.{'cu' if device == 'cuda' else 'cpp'}"
        if request.config.getoption("--update-golden"):
            GOLDEN.mkdir(exist_ok=True)
            path.write_text(stage.emitted.source)
        assert path.exists(), f"{path.name} is missing; pytest --update-golden writes it"
        assert stage.emitted.source == path.read_text(), f"{path.name} differs; see git diff after --update-golden"


def test_only_functions_that_are_called_are_emitted() -> None:
    """A source without exp holds no exp, and every function that one calls is there."""
    (plain,) = plan_call(Spec("x*y", ("x = Vi(1)", "y = Vj(1)")), "float32", "cpu").stages
    assert "exp" not in plain.emitted.source
    (with_exp,) = plan_call(SEED, "float32", "cpu").stages
    assert "V exp(V x)" in with_exp.emitted.source
    assert "exp" in functions(with_exp.emitted.source)


# ---- bounds --------------------------------------------------------------------------------------------------

PLANNED_S = 3.0  # of processor time, for what took 0.8 s; by steps for each pair of components it took 4 to 6 s

LARGEST = {
    "a large state": Spec("x - y", ("x = Vi(3000)", "y = Vj(3000)"), "LogSumExp"),
    "many lists": Spec("x - y", ("x = Vi(3000)", "y = Vj(3000)"), "KMin", opt_arg=3),
    "many results": Spec("SumT(x * y, 9000)", ("x = Vi(1)", "y = Vj(1)")),
    "many products": Spec("TensorProd(x, y)", ("x = Vi(90)", "y = Vj(90)")),
    "a doubled vector": Spec(
        "a12", ("x = Vi(1)", "a0 = Concat(x, x)", *(f"a{k + 1} = Concat(a{k}, a{k})" for k in range(12)))
    ),
}


@pytest.mark.parametrize("what", LARGEST)
def test_a_source_that_would_take_minutes_to_compile_is_refused_first(what: str) -> None:
    """Its operations are few enough, its text is too long: the error says how long it may be, and comes soon."""
    begun = time.process_time()
    with pytest.raises(LimitError, match=rf"has \d+ bytes, at most {MAX_SOURCE} are compiled") as caught:
        plan_call(LARGEST[what], "float32", "cpu")
    assert time.process_time() - begun < PLANNED_S
    assert (caught.value.limit, caught.value.field) == (MAX_SOURCE, "formula")


def test_limits_of_the_language_say_how_much_is_allowed() -> None:
    """The error of the parser has the largest value, beside the place."""
    for formula, limit in (
        ("SumT(x, 70000)", MAX_DIM),
        ("+".join(f"Sin({k}*x)" for k in range(900)), MAX_NODES),
        ("x" + "+x" * 4_000, MAX_DEPTH),
        ("(" * 100 + "x" + ")" * 100, MAX_NESTING),
        ("x" * 30_000, MAX_TEXT),
    ):
        with pytest.raises(FormulaError, match=str(limit)) as caught:
            plan_call(Spec(formula, ("x = Vi(1)",)), "float32", "cpu")
        assert caught.value.limit == limit
        assert caught.value.details()["limit"] == limit
