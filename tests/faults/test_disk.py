"""Kernel caches that cannot be used: a typed error, and a server that stays up."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from farfield.errors import BuildError
from serving import Server, gaussian, gaussian_arrays, serving


def check_refusal(server: Server) -> None:
    """Calls get a BuildError, again and again; no worker dies of it, and nothing is held."""
    for _ in range(3):
        with pytest.raises(BuildError) as caught:
            server.call(gaussian_arrays())
        assert caught.value.code == "build_error"
        assert "Traceback" not in str(caught.value)
    info = server.info()
    assert (info["worker_restarts"], info["arena_bytes_used"], info["is_ready"]) == (0, 0, True)


def test_a_cache_that_cannot_be_made_is_a_build_error(tmp_path: Path) -> None:
    """A folder below a file can never be."""
    (tmp_path / "file").write_text("")
    with serving(tmp_path, FARFIELD_CACHE_DIR=str(tmp_path / "file" / "cache")) as server:
        check_refusal(server)


def test_a_cache_that_is_not_there_yet_is_made(tmp_path: Path) -> None:
    """Folders above it, too."""
    arrays = gaussian_arrays()
    with serving(tmp_path, FARFIELD_CACHE_DIR=str(tmp_path / "new" / "cache")) as server:
        np.testing.assert_allclose(server.call(arrays), gaussian(*arrays), rtol=1e-12)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache_is_a_build_error(tmp_path: Path) -> None:
    """Once the folder may be written to, the same server computes."""
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o500)
    with serving(tmp_path, FARFIELD_CACHE_DIR=str(cache)) as server:
        check_refusal(server)
        cache.chmod(0o700)
        arrays = gaussian_arrays()
        np.testing.assert_allclose(server.call(arrays), gaussian(*arrays), rtol=1e-12)


def test_a_full_disk_is_a_build_error_until_there_is_room(tmp_path: Path) -> None:
    """The compiler may write one block and no more; when it may again, the same server computes."""
    is_full = tmp_path / "is_full"
    is_full.write_text("")
    compiler = tmp_path / "compiler"
    compiler.write_text(f'#!/bin/sh\n[ -e "{is_full}" ] && ulimit -f 1\nexec g++ "$@"\n')
    compiler.chmod(0o755)
    cache = tmp_path / "cache"
    with serving(tmp_path, FARFIELD_CACHE_DIR=str(cache), FARFIELD_CXX=str(compiler)) as server:
        check_refusal(server)
        assert not list(cache.glob("*.tmp")) + list(cache.glob("*.so"))
        is_full.unlink()
        arrays = gaussian_arrays()
        np.testing.assert_allclose(server.call(arrays), gaussian(*arrays), rtol=1e-12)
        assert len(list(cache.glob("*.so"))) == 1
