"""The kernel cache on disk: only whole files are used, it is nobody else's, bounded, and can be done without."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from farfield_kernels import build, cache
from farfield_kernels.errors import BuildError
from kernels.counted_compiler import SOURCE, Compiler, make_older

OTHER = SOURCE.replace("42", "43")

IN_A_NEW_PROCESS = f"""
from farfield_kernels.build import build_cpp
assert build_cpp({SOURCE!r}).answer() == 42
"""


def run_python(code: str) -> str:
    """Run code in a fresh interpreter, which has to end well; what it logged."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("FARFIELD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_has_warned", False)
    return cache.cache_dir()


# ---- whole files ---------------------------------------------------------------------------------------------


def test_what_was_kept_is_read(folder: Path) -> None:
    """Nothing as well as much; a file that is not there is None."""
    for content in (b"", b"x", os.urandom(300_000)):
        cache.keep(folder / "name.so", content)
        assert cache.read(folder / "name.so") == content
    assert cache.read(folder / "other.so") is None
    assert [path.name for path in folder.iterdir()] == ["name.so"]


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _cut_by_one(data: bytes) -> bytes:
    return data[:-1]


def _emptied(data: bytes) -> bytes:
    return data[:0]


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def _zeroed(data: bytes) -> bytes:
    return data[:4096] + bytes(len(data) - 4096)


def _unsealed(data: bytes) -> bytes:
    return data[: -cache.SEAL]


@pytest.mark.parametrize("damage", [_cut, _cut_by_one, _emptied, _flipped, _zeroed, _unsealed])
def test_a_damaged_library_is_compiled_anew_once(compiler: Compiler, damage: Callable[[bytes], bytes]) -> None:
    """With a line in the log; to load a half of it would end the program."""
    build.build_cpp(SOURCE)
    (binary,) = compiler.kept()
    whole = binary.read_bytes()
    binary.unlink()  # the loaded one stays mapped
    binary.write_bytes(damage(whole))
    assert f"{binary} is damaged and is made anew" in run_python(IN_A_NEW_PROCESS)
    assert compiler.runs == 2
    assert run_python(IN_A_NEW_PROCESS) == ""
    assert compiler.runs == 2
    assert compiler.kept() == [binary]


def test_a_whole_library_under_the_name_of_another_is_damaged(compiler: Compiler) -> None:
    """It would compute something else."""
    build.build_cpp(OTHER)
    (other,) = compiler.kept()
    build.build_cpp(SOURCE)
    (binary,) = set(compiler.kept()) - {other}
    binary.unlink()
    other.rename(binary)
    run_python(IN_A_NEW_PROCESS)
    assert compiler.runs == 3


def test_a_folder_in_place_of_a_library_costs_a_compile(compiler: Compiler) -> None:
    """Nothing is kept then, which is logged."""
    found = build.find_compiler()
    assert found is not None
    (compiler.cache / f"{build.cpp_key(SOURCE, found)}.so" / "x").mkdir(parents=True)
    compiler.cache.chmod(0o700)
    assert "the kernel cache cannot be used" in run_python(IN_A_NEW_PROCESS)


# ---- whose it is ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_cache_that_others_may_write_to_is_refused(folder: Path, mode: int) -> None:
    """Its binaries would run with our rights; the error says how to mend it."""
    folder.chmod(mode)
    with pytest.raises(BuildError, match=f"run 'chmod go-w {folder}'"):
        cache.cache_dir()
    with pytest.raises(BuildError, match="chmod"):
        build.build_cpp(SOURCE + "// never compiled")
    folder.chmod(0o755)
    assert cache.cache_dir() == folder


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder away")
def test_a_cache_of_another_user_is_refused(folder: Path) -> None:
    """Whatever its mode."""
    os.chown(folder, 12345, -1)
    with pytest.raises(BuildError, match="belongs to another user; set FARFIELD_CACHE_DIR"):
        cache.cache_dir()


# ---- bounds --------------------------------------------------------------------------------------------------


def test_what_was_used_least_recently_goes_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To read a file is to use it; the newest stays, though it alone may be too large."""
    size = 1000 + cache.SEAL
    monkeypatch.setenv("FARFIELD_CACHE_BYTES", str(3 * size))
    for age, name in enumerate("cba"):
        cache.keep(folder / f"{name}.so", bytes(1000))
        make_older(folder / f"{name}.so", 10_000 * (age + 1))
    assert cache.read(folder / "a.so") is not None  # the oldest, until now
    cache.keep(folder / "d.so", bytes(1000))
    assert sorted(path.stem for path in folder.iterdir()) == ["a", "c", "d"]
    cache.keep(folder / "e.so", bytes(5000))
    assert [path.stem for path in folder.iterdir()] == ["e"]


def test_a_file_is_marked_as_used_once_an_hour(folder: Path) -> None:
    """Reading costs no write most times."""
    path = folder / "name.so"
    cache.keep(path, b"x")
    make_older(path, 600)
    before = path.stat().st_mtime_ns
    cache.read(path)
    assert path.stat().st_mtime_ns == before
    make_older(path, 3600)
    cache.read(path)
    assert time.time() - path.stat().st_mtime < 60


def test_what_dead_processes_left_is_removed(folder: Path) -> None:
    """Unfinished files and locks, an hour later."""
    for name in ("old.tmp", "old.lock", "new.tmp", "new.lock"):
        (folder / name).touch()
    make_older(folder / "old.tmp", 4000)
    make_older(folder / "old.lock", 4000)
    cache.keep(folder / "name.so", b"x")
    assert sorted(path.name for path in folder.iterdir()) == ["name.so", "new.lock", "new.tmp"]


def test_processes_share_a_bounded_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four that write, read and make room at the same time meet whole files or none."""
    limit = 20_000
    monkeypatch.setenv("FARFIELD_CACHE_BYTES", str(limit))
    code = """
import random
from farfield_kernels import cache
folder = cache.cache_dir()
for turn in range(200):
    name = random.choice("abcdefghijklmnopqrstuvwxyz")
    assert cache.read(folder / f"{name}.so") in (None, name.encode() * 1500)
    cache.keep(folder / f"{name}.so", name.encode() * 1500)
"""
    children = [
        subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(4)
    ]
    for child in children:
        _, logged = child.communicate()
        assert (child.returncode, logged) == (0, "")
    cache.keep(folder / "last.so", b"x")
    assert sum(path.stat().st_size for path in folder.iterdir()) <= limit


@pytest.mark.parametrize("words", ["many", "-1", "1e9"])
def test_a_wrong_size_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    """The message has the setting and what it is."""
    monkeypatch.setenv("FARFIELD_CACHE_BYTES", words)
    with pytest.raises(BuildError, match=f"FARFIELD_CACHE_BYTES is '{words}', a number of bytes is needed"):
        cache.keep(folder / "name.so", b"x")


# ---- without a cache -----------------------------------------------------------------------------------------


def test_without_a_cache_kernels_are_compiled_all_the_same(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With one warning for all of them, and once per process."""
    monkeypatch.setattr(cache, "_has_warned", False)
    compiler.cache.write_text("")
    monkeypatch.setenv("FARFIELD_CACHE_DIR", str(compiler.cache / "cache"))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert build.build_cpp(SOURCE).answer() == 42
            assert build.build_cpp(OTHER).answer() == 43
    assert compiler.runs == 2
    assert len(caplog.records) == 1
    assert "the kernel cache cannot be used" in caplog.text
    assert "set FARFIELD_CACHE_DIR" in caplog.text


def test_a_full_cache_costs_a_compile_and_a_warning(compiler: Compiler) -> None:
    """Nothing is left of what could not be written whole; what is loaded needs no file any more."""
    text = compiler.script.read_text().replace("exec", "ulimit -S -f unlimited\nexec")
    compiler.script.write_text(text)  # only Python meets the end of the disk
    code = f"""
import resource
from farfield_kernels.build import build_cpp
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
assert build_cpp({SOURCE!r}).answer() == 42
assert build_cpp({OTHER!r}).answer() == 43
assert build_cpp({SOURCE!r}).answer() == 42
"""
    logged = run_python(code)
    assert logged.count("\n") == 1
    assert "File too large" in logged
    assert not list(compiler.cache.iterdir())
    assert compiler.runs == 2


def test_where_nothing_can_be_written_there_is_an_error_until_there_is_room(compiler: Compiler) -> None:
    """All folders are tried; the failure is not remembered against the source."""
    text, room = compiler.script.read_text(), compiler.log.with_name("room")
    compiler.script.write_text(text.replace("exec", f'[ -e "{room}" ] || ulimit -f 1\nexec'))
    with pytest.raises(BuildError, match=r"there is no folder to compile in .*make room, or set TMPDIR"):
        build.build_cpp(SOURCE)
    assert compiler.runs == 3
    assert not list(compiler.cache.iterdir())
    room.touch()
    assert build.build_cpp(SOURCE).answer() == 42


def test_a_lock_that_is_held_for_long_is_not_waited_for(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The holder may hang; to write a file twice does no harm. The lock stays its own."""
    path = folder / "name.so"
    with cache.alone(path, 1.0):
        begun = time.monotonic()
        with cache.alone(path, 0.2):
            assert 0.2 <= time.monotonic() - begun < 1.0
        assert path.with_suffix(".lock").exists()
    assert "has been locked for long" in caplog.text
    assert not list(folder.iterdir())
