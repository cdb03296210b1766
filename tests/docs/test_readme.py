"""The commands and examples of the READMEs are real."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from farfield_service.cli import build_parser

ROOT = Path(__file__).parents[2]
READMES = (
    "README.md",
    "service/README.md",
    "kernels/README.md",
    "client/README.md",
    "CONTRIBUTING.md",
    "docs/operators.md",
)


def blocks(path: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / path).read_text(), re.DOTALL)


def shell_lines() -> list[str]:
    """Every command of a `sh` block."""
    found = [line for path in READMES for block in blocks(path, "sh") for line in block.splitlines()]
    return [line for line in found if line]


def test_readme_names_the_commands_of_a_newcomer() -> None:
    """The README has the commands that a fresh checkout is tried with."""
    assert {"make demo", "make test", "make check"} <= set(shell_lines())


def test_make_targets_exist() -> None:
    """Each `make TARGET` of a README is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {line.split()[1] for line in shell_lines() if line.startswith("make ")}
    assert named
    assert named <= targets


def test_farfield_commands_are_understood() -> None:
    """Each `farfield ...` of a README parses."""
    lines = [line[line.index("farfield ") :] for line in shell_lines() if re.search(r"(^|\" )farfield ", line)]
    assert len(lines) >= 4
    for line in lines:
        assert build_parser().parse_args(shlex.split(line)[1:])


def test_extras_that_are_installed_exist() -> None:
    """Each extra in a `pip install 'farfield[...]'` is declared."""
    declared = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    named = {
        extra
        for path in READMES
        for group in re.findall(r"'farfield\[([\w,]+)\]'", (ROOT / path).read_text())
        for extra in group.split(",")
    }
    assert named
    assert named <= declared


@pytest.mark.parametrize("number", range(2))
def test_python_examples_run(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's Python runs as it stands, on the embedded engine."""
    monkeypatch.setenv("FARFIELD_URL", "local:")
    examples = blocks("README.md", "python")
    assert len(examples) == 2
    names: dict[str, object] = {}
    exec(compile(examples[number], "README.md", "exec"), names)
    assert names["c"].shape[0] in (3000, 100)  # type: ignore[attr-defined]


def test_links_lead_somewhere() -> None:
    """Each relative link of a README is a file."""
    for path in READMES:
        for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / path).read_text()):
            assert (ROOT / path).parent.joinpath(target).exists(), f"{path}: {target}"


def test_counts_of_agreement_are_those_of_the_run() -> None:
    """The verdicts in the benchmarks' README are those of the kept run, which says why unless rows agree."""
    kept = json.loads((ROOT / "benchmarks/results/agreement.json").read_text())
    table = re.findall(r"^\| (\d+) \| (.+) \|$", (ROOT / "benchmarks/README.md").read_text(), re.MULTILINE)
    assert {verdict: int(count) for count, verdict in table} == kept["counts"]
    assert sum(kept["counts"].values()) == len(kept["rows"]) >= 300
    for row in kept["rows"]:
        assert row["verdict"] == "agrees" or row["note"], row["formula"]
