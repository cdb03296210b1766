"""What `import farfield` costs and shows."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest

import farfield

HEAVY = ("torch", "fastapi", "uvicorn", "starlette", "cupy", "pydantic", "msgspec", "farfield_service")


def modules_after(statement: str) -> set[str]:
    """Top-level modules and submodules that a fresh program has after one statement."""
    code = f"{statement}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("statement", ["import farfield", "import farfield.numpy", "import farfield.transport"])
def test_importing_the_client_imports_nothing_heavy(statement: str) -> None:
    """Neither torch nor anything of the server, nor the engine."""
    loaded = modules_after(statement)
    assert not {name for name in loaded if name.partition(".")[0] in HEAVY}
    assert not {"farfield_kernels.engine", "farfield_kernels.build"} & loaded
    assert "farfield" in loaded


def test_torch_is_imported_by_its_own_module_alone() -> None:
    """The valid neighbour: `farfield.torch` is what needs torch."""
    loaded = modules_after("import farfield.torch")
    assert "torch" in loaded
    assert "farfield_service" not in loaded


def test_all_is_what_is_visible() -> None:
    """`farfield.__all__` has every public name of the package, sorted, and no other."""
    visible = {
        name
        for name, value in vars(farfield).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType) and name != "annotations"
    }
    assert visible | {"__version__"} == set(farfield.__all__)
    assert list(farfield.__all__) == sorted(farfield.__all__)


def test_every_error_of_the_tree_can_be_caught_by_name() -> None:
    """The package exports all error classes of `farfield.errors`."""
    assert set(farfield.errors.__all__) - {"from_problem"} <= set(farfield.__all__)
