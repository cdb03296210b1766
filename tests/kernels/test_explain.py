"""What explain says of a call of some sizes: the scheme, why, and the time below which it cannot end."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from farfield_kernels import build
from farfield_kernels.arguments import Sizes
from farfield_kernels.choices import TO_MEASURE
from farfield_kernels.cost import register_tile
from farfield_kernels.explain import explain
from farfield_kernels.machine import OF_KERNELS
from farfield_kernels.operation import Spec
from farfield_kernels.predict import CALL_S, STEP_S, predict
from farfield_kernels.separate import LEAST_PAIRS
from kernels.made_up_limits import keep, made_up_limits
from kernels.test_cost import SEED, gaussian


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and two threads."""
    monkeypatch.setenv("FARFIELD_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("farfield_kernels.cost.thread_count", lambda: 2)
    return tmp_path


def lines(spec: Spec, sizes: tuple[int, int] | None, dtype: str = "float32") -> list[str]:
    """What is said of the first kernel, each line without the space around it."""
    text = explain(spec, dtype, sizes=sizes, with_source=False)
    return [line.strip() for line in text.splitlines()]


def test_operations_of_a_pair_are_said_without_sizes() -> None:
    """They do not depend on them; nothing is predicted."""
    said = lines(gaussian(3), None)
    assert "per pair   3 add, 1 exp2, 5 fma" in said
    assert not any(line.startswith(("limit", "chosen", "scheme", "Expected")) for line in said)


def test_few_rows_have_columns_in_lanes() -> None:
    """With the rule and its numbers; above it, and below as many columns, rows are in lanes."""
    said = lines(gaussian(3), (10, 1_000_000))
    assert "scheme     columns in lanes: 10 rows are at most 16, 1000000 columns at least 4096" in said
    assert any(line.startswith("schedule   cpu, float32: 1 rows") for line in said)
    assert "columns split into 8 parts: so 2 threads have work" in said
    assert "scheme     rows in lanes, 2 vectors at a time: 17 rows are more than 16" in lines(
        gaussian(3), (17, 9000)
    )
    few = lines(gaussian(3), (10, 100))
    assert "scheme     rows in lanes, 2 vectors at a time: 100 columns are fewer than 4096" in few
    places = lines(Spec("x|y", ("x = Vi(3)", "y = Vj(3)"), "ArgMin"), (10, 9000))
    assert any(line.endswith("leave no choice") for line in places)


def test_loops_say_from_how_many_components_on() -> None:
    """A fold is a register tile; results and weights come some at a time."""
    said = lines(gaussian(64, 16), (1000, 3000))
    vectors, columns = register_tile()
    tile = f"{vectors} vector{'s' if vectors > 1 else ''} x {columns} columns"
    assert f"a sum over 64 components, at least 8: register tile of {tile}" in said
    assert "16 results, at least 8: 8 at a time over 96 columns" in said


def test_separation_says_why_and_why_not() -> None:
    """Too few pairs, many enough, no gain, no separable sum, and what was asked for."""

    def passes(spec: Spec, M: int, N: int) -> str:
        (found,) = [line for line in lines(spec, (M, N)) if line.startswith("passes")]
        return found.removeprefix("passes").strip()

    assert passes(SEED, 1000, 1000) == f"no: 1000000 pairs are fewer than {LEAST_PAIRS}"
    taken = passes(SEED, 10_000, 10_000)
    assert taken == f"yes: 100000000 pairs are at least {LEAST_PAIRS}, and more than 32 x (10000 + 10000)"
    assert passes(SEED, 10, 20_000_000) == "no: 200000000 pairs are not more than 32 x (10 + 20000000)"
    assert passes(gaussian(3), 10_000, 10_000) == "no: the sum does not separate"
    on, off = (Spec(SEED.formula, SEED.variables, separation=word) for word in ("on", "off"))
    assert passes(on, 10, 10) == "yes: separation is on"
    assert passes(on, 0, 10) == "no: there are no pairs"
    assert passes(off, 10_000, 10_000) == "no: separation is off"


def expected_ms(said: list[str], rate: str) -> float:
    """The number in the line of the expected time, whose rate is that."""
    (found,) = (re.fullmatch(r"Expected    about (\S+) ms: .* at the rate of (.*)", line) for line in said[-1:])
    assert found is not None
    assert found[2] == rate
    return float(found[1])


@pytest.mark.skipif(build.find_compiler() is None, reason="no C++ compiler is installed")
def test_the_time_is_predicted_once_the_machine_is_measured() -> None:
    """Before, explain says what to run and measures nothing."""
    before = lines(gaussian(3), (16_000, 10_000))
    steps = predict(gaussian(3), Sizes("float32", 16_000, 10_000, (), ((),) * 4)).steps
    assert f"limit      {TO_MEASURE}" in before
    assert expected_ms(before, "a slow machine") == pytest.approx(1e3 * (CALL_S + STEP_S * steps), rel=1e-2)
    keep(made_up_limits())
    # (5 fma + an exp2 of 10) ns for 16 pairs
    after = lines(gaussian(3), (16_000, 10_000))
    # a fused product of 1 ns for 16 lanes on 2 threads
    assert expected_ms(after, "this machine") == pytest.approx(1e3 * OF_KERNELS * 1e-9 / 32 * steps, rel=1e-2)
    assert (
        "limit      at least 75 ms on 2 threads, 150 ms of CPU time: what arithmetic takes at full speed" in after
    )
    small = lines(gaussian(3), (10, 10))
    assert any("ms on 1 thread: what arithmetic" in line for line in small)
    wide = lines(Spec("Elem(y,0)", ("x = Vi(1)", "y = Vj(4000)")), (1, 100_000))
    assert any("what memory takes" in line for line in wide)
    passes = lines(SEED, (10_000, 10_000))
    assert sum(line.startswith("limit") for line in passes) == 1


def test_a_cache_that_cannot_be_used_keeps_nothing_from_being_explained(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limits are looked for, no more."""
    (cache / "file").write_text("")
    monkeypatch.setenv("FARFIELD_CACHE_DIR", str(cache / "file" / "cache"))
    assert f"limit      {TO_MEASURE}" in lines(gaussian(3), (100, 100))


def test_cuda_has_no_limit_of_this_machine() -> None:
    """Neither a prediction nor a scheme of SIMD lanes."""
    text = explain(gaussian(3), device="cuda", sizes=(10, 1_000_000), with_source=False)
    assert "chosen     for 10 rows" in text
    assert re.search(r"^Memory      16000124 bytes of arguments, 40 of results; \d{8} on a device$", text, re.M)
    assert "limit" not in text
    assert "Expected" not in text
    assert "scheme" not in text


def test_how_a_server_cuts_a_long_call_is_said() -> None:
    """By rows; by columns where rows are few; not where the sum separates."""
    assert "pieces     by rows of i" in lines(gaussian(3), (100_000, 100_000))
    assert "pieces     by columns, rows of j, merged by Sum" in lines(gaussian(3), (3, 1_000_000))
    assert "pieces     whole: the sum separates" in lines(SEED, (10_000, 10_000))
    both = lines(gaussian(3).vjp((0, 1)), (100_000, 100_000))
    assert [line for line in both if line.startswith("pieces")] == [
        "pieces     by rows of i",
        "pieces     by rows of j",
    ]
