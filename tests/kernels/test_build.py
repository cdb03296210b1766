"""Compiling: once per key in threads and processes, never visible half done, clear when there is no compiler."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from farfield_kernels import build
from farfield_kernels.errors import BuildError, DeviceError

SOURCE = 'extern "C" int answer() { return 42; }\n'

IN_A_NEW_PROCESS = f"""
from farfield_kernels.build import build_cpp
assert build_cpp({SOURCE!r}).answer() == 42
"""


@dataclass
class Compiler:
    """A compiler that counts its runs, and the cache that it fills."""

    log: Path
    cache: Path

    @property
    def runs(self) -> int:
        """How often it was started."""
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    """A script in front of the real compiler, and an empty cache on disk and in memory."""
    real = build.find_compiler()
    if real is None:
        pytest.skip("no C++ compiler is installed")
    script, log, cache = tmp_path / "cxx", tmp_path / "log", tmp_path / "cache"
    script.write_text(f'#!/bin/sh\necho run >> "{log}"\nexec "{real}" "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("FARFIELD_CXX", str(script))
    monkeypatch.setenv("FARFIELD_CACHE_DIR", str(cache))
    monkeypatch.setattr(build, "_libraries", {})
    return Compiler(log, cache)


def in_a_new_process(code: str = IN_A_NEW_PROCESS) -> None:
    """Run code in a fresh interpreter; its error is shown."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_source_is_compiled_once_and_kept(compiler: Compiler) -> None:
    """The file appears in a folder of mode 0700, with nothing beside it, and later calls and processes load it."""
    assert build.build_cpp(SOURCE).answer() == 42
    assert build.build_cpp(SOURCE).answer() == 42
    assert [path.suffix for path in compiler.cache.iterdir()] == [".so"]
    assert stat.S_IMODE(compiler.cache.stat().st_mode) == 0o700
    in_a_new_process()
    assert compiler.runs == 1


def test_a_changed_source_or_compiler_is_another_key(compiler: Compiler) -> None:
    """Other text, other flags or a newer compiler compile anew."""
    found = build.find_compiler()
    assert found is not None
    key = build.cpp_key(SOURCE, found)
    assert build.cpp_key(SOURCE + " ", found) != key
    Path(found).write_text(Path(found).read_text() + "# newer\n")
    assert build.cpp_key(SOURCE, found) != key


def test_eight_threads_compile_once(compiler: Compiler) -> None:
    """One thread compiles while the others wait, and all get the library."""
    barrier, answers = threading.Barrier(8), []

    def call() -> None:
        barrier.wait()
        answers.append(build.build_cpp(SOURCE).answer())

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [42] * 8
    assert compiler.runs == 1


def test_four_processes_compile_once(compiler: Compiler) -> None:
    """Processes that start together share one compile."""
    children = [subprocess.Popen([sys.executable, "-c", IN_A_NEW_PROCESS]) for _ in range(4)]
    assert [child.wait() for child in children] == [0] * 4
    assert compiler.runs == 1


def test_different_sources_compile_at_the_same_time(compiler: Compiler) -> None:
    """A slow compile of one source does not hold up another."""
    with build._flights.alone("another key"):
        assert build.build_cpp(SOURCE).answer() == 42


def test_a_failed_compile_says_why_and_leaves_no_binary(compiler: Compiler) -> None:
    """The compiler's words are in the message, no binary appears, and the right source still compiles."""
    with pytest.raises(BuildError, match="expected"):
        build.build_cpp("int answer( { return 42; }")
    assert not [path for path in compiler.cache.iterdir() if path.suffix in (".so", ".tmp")]
    assert build.build_cpp(SOURCE).answer() == 42


def test_a_half_written_binary_is_never_used(compiler: Compiler) -> None:
    """What a killed compile left behind is not loaded; the source is compiled beside it."""
    compiler.cache.mkdir(mode=0o700)
    (compiler.cache / "left-behind.tmp").write_bytes(b"\x7fELF half")
    found = build.find_compiler()
    assert found is not None
    (compiler.cache / f"{build.cpp_key(SOURCE, found)}.lock").touch()
    assert build.build_cpp(SOURCE).answer() == 42
    assert compiler.runs == 1


def test_the_binary_appears_under_its_name_only_when_complete(compiler: Compiler) -> None:
    """While the compiler runs, its output has another name."""
    script = Path(build.find_compiler() or "")
    listing = compiler.log.with_name("listing")
    text = script.read_text().replace("exec ", "").rstrip() + f'\nls "{compiler.cache}" > "{listing}"\n'
    script.write_text(text)
    assert build.build_cpp(SOURCE).answer() == 42
    assert not [line for line in listing.read_text().split() if line.endswith(".so")]
    assert [line for line in listing.read_text().split() if line.endswith(".tmp")]


def test_without_a_compiler_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A compiler that is not there is named, with the command that installs one."""
    monkeypatch.setenv("FARFIELD_CXX", "/nonexistent/g++")
    monkeypatch.setattr(build, "_libraries", {})
    with pytest.raises(BuildError, match=r"looked for /nonexistent/g\+\+.*apt install g\+\+"):
        build.build_cpp(SOURCE)
    monkeypatch.delenv("FARFIELD_CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=r"looked for g\+\+, clang\+\+, c\+\+.*set FARFIELD_CXX"):
        build.build_cpp(SOURCE)


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`FARFIELD_CACHE_DIR` first, then `XDG_CACHE_HOME`, then the home folder."""
    assert build.cache_dir() != tmp_path
    monkeypatch.setenv("FARFIELD_CACHE_DIR", str(tmp_path / "asked"))
    assert build.cache_dir() == tmp_path / "asked"
    monkeypatch.delenv("FARFIELD_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert build.cache_dir() == tmp_path / "xdg" / "farfield"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert build.cache_dir() == tmp_path / "home" / ".cache" / "farfield"


def test_importing_the_compiler_needs_no_compiler_and_no_cupy(tmp_path: Path) -> None:
    """Without g++ and without CuPy the language is there; asking for cuda says which extra brings CuPy."""
    code = """
import sys
sys.modules["cupy"] = None
from farfield_kernels import engine, parse
from farfield_kernels.errors import DeviceError
assert engine.resolve_device("auto") == "cpu"
try:
    engine.resolve_device("cuda")
except DeviceError as error:
    assert "farfield[cuda13]" in str(error), error
else:
    raise AssertionError
"""
    in_a_new_process(code)


def test_unknown_devices_are_refused() -> None:
    """The message lists the devices."""
    from farfield_kernels.engine import resolve_device

    assert resolve_device("cpu") == "cpu"
    with pytest.raises(DeviceError, match="'gpu' is not one of auto, cpu, cuda"):
        resolve_device("gpu")


def test_the_real_compiler_is_found_on_the_path() -> None:
    """Without `FARFIELD_CXX` the first of g++, clang++, c++ on the path is taken."""
    expected = next((path for name in build.COMPILERS if (path := shutil.which(name))), None)
    assert build.find_compiler() == expected
