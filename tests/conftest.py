"""What every test shares: a kernel cache of its own, and options: `--update-golden`, `--soak`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest_plugins = ("serving",)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-golden` writes the golden files anew instead of comparing with them; `--soak` takes hours."""
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden files")
    parser.addoption("--soak", action="store_true", help="the long forms of the tests for faults")


@pytest.fixture(scope="session")
def is_soak(request: pytest.FixtureRequest) -> bool:
    """Whether tests that have a long form take it; see `faults.count`."""
    return bool(request.config.getoption("--soak"))


@pytest.fixture(scope="session", autouse=True)
def kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Compiled kernels go to a folder that lives as long as the tests, never to the user's cache."""
    folder = tmp_path_factory.mktemp("kernel-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FARFIELD_CACHE_DIR", str(folder))
        yield folder
