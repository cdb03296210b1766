"""Kernel caches that cannot be used, or not trusted: kernels are compiled anew, and a server stays up."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import numpy as np
import pytest

from farfield.errors import BuildError
from serving import Server, gaussian, gaussian_arrays, serving

UNUSABLE = "the kernel cache cannot be used"


def check_refusal(server: Server) -> None:
    """Calls get a BuildError, again and again; no worker dies of it, and nothing is held."""
    for _ in range(3):
        with pytest.raises(BuildError) as caught:
            server.call(gaussian_arrays())
        assert caught.value.code == "build_error"
        assert "Traceback" not in str(caught.value)
    check_idle(server)


def check_result(server: Server) -> None:
    """Calls compute."""
    arrays = gaussian_arrays()
    np.testing.assert_allclose(server.call(arrays), gaussian(*arrays), rtol=1e-12)


def check_idle(server: Server) -> None:
    """No worker has died, and nothing is held."""
    info = server.info()
    assert (info["worker_restarts"], info["arena_bytes_used"], info["is_ready"]) == (0, 0, True)


def check_result_without_cache(server: Server) -> None:
    """Calls compute, and the log says once that nothing was kept."""
    for _ in range(3):
        check_result(server)
    check_idle(server)
    assert server.log.read_text().count(UNUSABLE) == 1


def a_compiler(folder: Path, line: str) -> str:
    """A compiler that does something before it compiles."""
    compiler = folder / "compiler"
    compiler.write_text(f'#!/bin/sh\n{line}\nexec g++ "$@"\n')
    compiler.chmod(0o755)
    return str(compiler)


def test_a_cache_that_cannot_be_made_is_done_without(tmp_path: Path) -> None:
    """A folder below a file can never be."""
    (tmp_path / "file").write_text("")
    with serving(tmp_path, FARFIELD_CACHE_DIR=str(tmp_path / "file" / "cache")) as server:
        check_result_without_cache(server)


def test_a_cache_that_is_not_there_yet_is_made(tmp_path: Path) -> None:
    """Folders above it, too."""
    with serving(tmp_path, FARFIELD_CACHE_DIR=str(tmp_path / "new" / "cache")) as server:
        check_result(server)
        assert UNUSABLE not in server.log.read_text()
    assert list((tmp_path / "new" / "cache").glob("*.so"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache_is_done_without(tmp_path: Path) -> None:
    """Nothing can be kept in it."""
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o500)
    with serving(tmp_path, FARFIELD_CACHE_DIR=str(cache)) as server:
        check_result_without_cache(server)


def test_a_cache_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    """To load their code would be to run it; once the folder is ours alone, the same server computes."""
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o777)
    with serving(tmp_path, FARFIELD_CACHE_DIR=str(cache)) as server:
        with pytest.raises(BuildError, match=f"run 'chmod go-w {cache}'"):
            server.call(gaussian_arrays())
        check_refusal(server)
        cache.chmod(0o700)
        check_result(server)


def test_a_full_cache_is_done_without(tmp_path: Path) -> None:
    """The worker may write one block and no more, its compiler what it needs; no half of a file is left."""
    cache, compiler = tmp_path / "cache", a_compiler(tmp_path, "ulimit -S -f unlimited")
    with serving(tmp_path, FARFIELD_CACHE_DIR=str(cache), FARFIELD_CXX=compiler) as server:
        resource.prlimit(server.worker_pid(), resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
        check_result_without_cache(server)
        assert not list(cache.iterdir())


def test_a_disk_that_is_full_everywhere_is_a_build_error_until_there_is_room(tmp_path: Path) -> None:
    """The compiler may write one block and no more; when it may again, the same server computes."""
    is_full = tmp_path / "is_full"
    is_full.write_text("")
    compiler = a_compiler(tmp_path, f'[ -e "{is_full}" ] && ulimit -f 1')
    cache = tmp_path / "cache"
    with serving(tmp_path, FARFIELD_CACHE_DIR=str(cache), FARFIELD_CXX=compiler) as server:
        check_refusal(server)
        assert not list(cache.iterdir())
        is_full.unlink()
        check_result(server)
        assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("kept", [0, 1000, -1])
def test_a_damaged_kernel_is_compiled_anew(tmp_path: Path, kept: int) -> None:
    """A worker that finds an empty file, or one that is cut short, says so, replaces it and lives on."""
    cache = tmp_path / "cache"
    with serving(tmp_path, FARFIELD_CACHE_DIR=str(cache)) as server:
        check_result(server)
        (binary,) = cache.iterdir()
        whole = binary.read_bytes()
        binary.unlink()  # the worker has it mapped
        binary.write_bytes(whole[:kept])
        server.kill_worker()
        check_result(server)
        assert server.info()["worker_restarts"] == 1
        assert server.log.read_text().count("is damaged and is made anew") == 1
        assert binary.read_bytes()[:4] == b"\x7fELF"
        assert len(binary.read_bytes()) > 1000
