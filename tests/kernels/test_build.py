"""Compiling: once per key in threads and processes, never visible half done, clear when there is no compiler."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from farfield_kernels import build
from farfield_kernels.errors import BuildError, BuildTimeout, DeviceError
from kernels.counted_compiler import SOURCE, Compiler
from serving import is_alive, wait_for

LOCK_WAIT_S = 5.0  # for a lock whose holder is dead, which is free at once

IN_A_NEW_PROCESS = f"""
from farfield_kernels.build import build_cpp
assert build_cpp({SOURCE!r}).answer() == 42
"""


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


def test_64_threads_compile_once(compiler: Compiler) -> None:
    """One thread compiles while the others wait, and all get the library."""
    barrier, answers = threading.Barrier(64), []

    def call() -> None:
        barrier.wait()
        answers.append(build.build_cpp(SOURCE).answer())

    threads = [threading.Thread(target=call) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [42] * 64
    assert compiler.runs == 1


def test_processes_compile_once(compiler: Compiler) -> None:
    """Four processes of 16 threads that start together share one compile, and no lock is left."""
    code = f"""
import threading
from farfield_kernels.build import build_cpp
barrier, answers = threading.Barrier(16), []
def call():
    barrier.wait()
    answers.append(build_cpp({SOURCE!r}).answer())
threads = [threading.Thread(target=call) for _ in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert answers == [42] * 16
"""
    compiler.slow_down(0.5)
    children = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
    assert [child.wait() for child in children] == [0] * 4
    assert compiler.runs == 1
    assert [path.suffix for path in compiler.cache.iterdir()] == [".so"]


def test_a_process_that_dies_while_it_compiles_frees_the_others(compiler: Compiler) -> None:
    """Its lock goes with it, and the next one compiles."""
    compiler.slow_down(60)
    left_behind = {"TMPDIR": str(compiler.log.parent)}
    first = subprocess.Popen([sys.executable, "-c", IN_A_NEW_PROCESS], env=os.environ | left_behind)
    wait_for(lambda: compiler.runs, "a compile")
    first.send_signal(signal.SIGKILL)
    first.wait()
    compiler.slow_down(0)
    begun = time.monotonic()
    assert build.build_cpp(SOURCE).answer() == 42
    assert time.monotonic() - begun < LOCK_WAIT_S
    assert compiler.runs == 2
    os.killpg(os.getpgid(compiler.sleepers()[0]), signal.SIGKILL)


def test_different_sources_compile_at_the_same_time(compiler: Compiler) -> None:
    """A slow compile of one source does not hold up another."""
    with build._flights.alone("another key"):
        assert build.build_cpp(SOURCE).answer() == 42


def test_a_failed_compile_says_why_and_leaves_no_binary(compiler: Compiler) -> None:
    """The compiler's words are in the message, no binary appears, and the right source still compiles."""
    with pytest.raises(BuildError, match="expected"):
        build.build_cpp("int answer( { return 42; }")
    assert not list(compiler.cache.iterdir())
    assert build.build_cpp(SOURCE).answer() == 42


def test_a_refused_source_is_not_compiled_again_for_a_minute(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same error comes at once, as a new one; after a minute the compiler is asked again."""
    errors = []
    for _ in range(3):
        with pytest.raises(BuildError, match="expected") as caught:
            build.build_cpp("int answer( { return 42; }")
        errors.append(caught.value)
    assert compiler.runs == 1
    assert len({str(error) for error in errors}) == 1
    assert len({id(error) for error in errors}) == 3
    now = time.monotonic()
    monkeypatch.setattr(build.time, "monotonic", lambda: now + build.REFUSED_S + 1)
    with pytest.raises(BuildError, match="expected"):
        build.build_cpp("int answer( { return 42; }")
    assert compiler.runs == 2


def test_64_threads_are_refused_by_one_run(compiler: Compiler) -> None:
    """Those that waited for it do not try for themselves."""
    barrier, refused = threading.Barrier(64), []

    def call() -> None:
        barrier.wait()
        try:
            build.build_cpp("int answer( { return 42; }")
        except BuildError as error:
            refused.append(error.message)

    threads = [threading.Thread(target=call) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 64
    assert compiler.runs == 1


def test_refused_sources_are_forgotten_when_they_are_many(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is remembered is bounded."""
    monkeypatch.setattr(build, "MAX_REFUSED", 2)
    for number in range(4):
        with pytest.raises(BuildError):
            build.build_cpp(f"int answer{number}(")
        assert len(build._refused) <= 2


def test_a_compiler_that_takes_too_long_is_ended_with_its_children(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says the time and what to do, comes at once the second time, and no process is left."""
    monkeypatch.setenv("FARFIELD_COMPILE_TIMEOUT_S", "0.5")
    compiler.slow_down(60)
    for _ in range(2):
        begun = time.monotonic()
        with pytest.raises(BuildTimeout, match=r"took more than 0\.5 s: smaller dims") as caught:
            build.build_cpp(SOURCE)
        assert caught.value.code == "build_timeout"
        assert time.monotonic() - begun < 10
    assert compiler.runs == 1
    wait_for(lambda: not any(is_alive(pid) for pid in compiler.sleepers()), "the end of the compiler")
    assert compiler.sleepers()
    assert not list(compiler.cache.iterdir())


def test_a_compiler_has_so_much_memory_and_no_more(compiler: Compiler) -> None:
    """It and its children run under a limit of address space and one of processor time."""
    limits = compiler.log.with_name("limits")
    compiler.script.write_text(f'#!/bin/sh\nulimit -v > "{limits}"\nulimit -t >> "{limits}"\nexit 1\n')
    with pytest.raises(BuildError):
        build.build_cpp(SOURCE)
    assert limits.read_text().split() == [str(build.COMPILE_KIB), str(int(build.COMPILE_TIMEOUT_S) + 1)]


@pytest.mark.parametrize("words", ["soon", "0", "-3", "nan", "inf"])
def test_a_wrong_time_limit_is_named(compiler: Compiler, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    """And is not remembered against the source."""
    monkeypatch.setenv("FARFIELD_COMPILE_TIMEOUT_S", words)
    with pytest.raises(BuildError, match=f"FARFIELD_COMPILE_TIMEOUT_S is '{words}', a positive number"):
        build.build_cpp(SOURCE)
    monkeypatch.setenv("FARFIELD_COMPILE_TIMEOUT_S", "60")
    assert build.build_cpp(SOURCE).answer() == 42


def test_a_compiler_that_cannot_be_started_is_asked_again(compiler: Compiler) -> None:
    """That is no fault of the source."""
    text = compiler.script.read_text()
    status = compiler.script.stat()
    compiler.script.write_text(f"#!/no/such/shell\n{'#' * len(text)}"[: len(text)])
    os.utime(compiler.script, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(BuildError, match=r"ended with 12[67]"):
        build.build_cpp(SOURCE)
    compiler.script.write_text(text)
    os.utime(compiler.script, ns=(status.st_atime_ns, status.st_mtime_ns))
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
    """While the compiler runs, its output has another name and folder."""
    listing, script = compiler.log.with_name("listing"), compiler.script
    text = script.read_text().replace("exec ", "").rstrip() + f'\nls "{compiler.cache}" > "{listing}"\n'
    script.write_text(text)
    assert build.build_cpp(SOURCE).answer() == 42
    assert [Path(line).suffix for line in listing.read_text().split()] == [".lock"]
    assert [path.suffix for path in compiler.cache.iterdir()] == [".so"]


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
