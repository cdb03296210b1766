"""Tables in the documentation are generated from the declarations and are fresh."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from docs import operator_page, reduction_page
from farfield_service.errors import ANSWERS
from farfield_service.settings import Settings

ROOT = Path(__file__).parents[2]


def settings() -> list[str]:
    """One row per setting."""
    rows = ["| flag | variable | default | is |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f"`{field.default}`"
        rows.append(
            f"| `--{name.replace('_', '-')}` | `FARFIELD_{name.upper()}` | {default} | {field.description} |"
        )
    return rows


def errors() -> list[str]:
    """One row per error code."""
    rows = ["| code | status |", "|---|---|"]
    for code, answer in sorted(ANSWERS.items(), key=lambda item: (item[1].status, item[0])):
        rows.append(f"| `{code}` | {answer.status}{', try again' if answer.retryable else ''} |")
    return rows


TABLES: dict[str, tuple[str, Callable[[], list[str]]]] = {
    "operators": ("docs/operators.md", operator_page.page),
    "reductions": ("docs/operators.md", reduction_page.page),
    "settings": ("service/README.md", settings),
    "errors": ("service/README.md", errors),
}


@pytest.mark.parametrize("name", TABLES)
def test_table_is_fresh(name: str, request: pytest.FixtureRequest) -> None:
    """What stands between the markers is what the declarations say."""
    path, rows = TABLES[name]
    file = ROOT / path
    text = file.read_text()
    pattern = re.compile(rf"(<!-- {name} -->\n)(.*?)(<!-- end -->)", re.DOTALL)
    fresh = "\n".join(rows()) + "\n"
    if request.config.getoption("--update-golden"):
        file.write_text(pattern.sub(lambda found: found[1] + fresh + found[3], text))
        return
    found = pattern.search(text)
    assert found
    assert found[2] == fresh, f"make docs renews {path}"
