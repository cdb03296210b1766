"""Name -> bytes on disk that are known to be whole: written once, shared between processes, bounded in size.

A file is its content, then the sha256 of its name and content in hexadecimal. It appears under its name complete,
by one rename; one that is damaged all the same, by a full disk or a power cut, is removed when it is read. To load
a damaged library would end the program by a signal, so every one is read and checked before.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .errors import BuildError

MAX_BYTES = 2**30  # of all files, unless `FARFIELD_CACHE_BYTES` says otherwise
TOUCH_S = 3600  # after which a file that is read is marked as used once more
ABANDONED_S = 3600  # after which nobody is still writing a file or waiting for one
POLL_S = 0.02  # between two looks at a lock that another process holds
SEAL = 64  # characters of a sha256

log = logging.getLogger("farfield.cache")


def cache_dir() -> Path:
    """Where kernels are kept: `FARFIELD_CACHE_DIR`, else `~/.cache/farfield`; created with mode 0700.

    Raises:
        BuildError: it cannot be made, or somebody else may write to it.
    """
    try:
        return _folder()
    except OSError as error:
        raise BuildError(
            f"the kernel cache cannot be used ({error}); set FARFIELD_CACHE_DIR to a folder of yours"
        ) from None


def place(name: str) -> Path | None:
    """The path of a file of the cache; None, and a line in the log, if there can be no cache.

    Raises:
        BuildError: somebody else may write to it. To load code from there is to run theirs.
    """
    try:
        return _folder() / name
    except OSError as error:
        warn_of(error)
        return None


def _folder() -> Path:
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("FARFIELD_CACHE_DIR") or Path(caches) / "farfield")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid():
        raise BuildError(f"the kernel cache {folder} belongs to another user; set FARFIELD_CACHE_DIR")
    if status.st_mode & 0o022:
        raise BuildError(f"others may write to the kernel cache {folder}: run 'chmod go-w {folder}'")
    return folder


_has_warned = False


def warn_of(error: OSError) -> None:
    """Log once per process that nothing can be kept."""
    global _has_warned
    if not _has_warned:
        log.warning(
            "the kernel cache cannot be used (%s): every process compiles its kernels anew; "
            "make room, or set FARFIELD_CACHE_DIR to a folder of yours",
            error,
        )
    _has_warned = True


def read(path: Path) -> bytes | None:
    """The content of a file, if it is there and whole; a damaged one is removed."""
    try:
        data = path.read_bytes()
        content, seal = data[:-SEAL], data[-SEAL:]
        if seal != _seal(path, content):
            log.warning("%s is damaged and is made anew", path)
            path.unlink(missing_ok=True)
            return None
        if time.time() - path.stat().st_mtime > TOUCH_S:
            os.utime(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        warn_of(error)
        return None
    return content


def keep(path: Path, content: bytes) -> None:
    """Write a file, and remove those that were used least recently if all are more than the cache may hold.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    limit = max_bytes()
    handle, unfinished = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content + _seal(path, content))
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
        raise
    _make_room(path, limit)


def _seal(path: Path, content: bytes) -> bytes:
    """Of the name, too: a whole file under another's name is damaged."""
    return hashlib.sha256(path.name.encode() + b"\0" + content).hexdigest().encode()


def max_bytes() -> int:
    """How much the cache may hold: `FARFIELD_CACHE_BYTES`, else 1 GiB.

    Raises:
        BuildError: the setting is not a number.
    """
    asked = os.environ.get("FARFIELD_CACHE_BYTES", "")
    if asked and not (asked.isascii() and asked.isdigit()):
        raise BuildError(f"FARFIELD_CACHE_BYTES is '{asked}', a number of bytes is needed")
    return int(asked) if asked else MAX_BYTES


def _make_room(newest: Path, limit: int) -> None:
    """Remove files, least recently used first, until `newest` and what is left are within the limit.

    Other processes may do the same at the same time: a file that is gone is as good as one removed.
    """
    files = []
    for entry in newest.parent.iterdir():
        with contextlib.suppress(OSError):
            status = entry.stat()
            if entry.suffix not in (".tmp", ".lock"):
                files.append((status.st_mtime, status.st_size, entry))
            elif time.time() - status.st_mtime > ABANDONED_S:
                entry.unlink()
    total = sum(size for _, size, _ in files)
    for _, size, entry in sorted(files):
        if total <= limit:
            return
        if entry != newest:
            with contextlib.suppress(OSError):
                entry.unlink()
                total -= size


@contextlib.contextmanager
def alone(path: Path | None, timeout_s: float) -> Iterator[None]:
    """Of all processes that are about to write a file, one at a time is within this block.

    The lock goes with the process that holds it, however that ends. Who waits for longer than `timeout_s`, or
    cannot lock, goes ahead: to write a file twice does no harm.
    """
    handle = None if path is None else _locked(path.with_suffix(".lock"), time.monotonic() + timeout_s)
    try:
        yield
    finally:
        if path is not None and handle is not None:
            with contextlib.suppress(OSError):
                path.with_suffix(".lock").unlink(missing_ok=True)
            fcntl.flock(handle, fcntl.LOCK_UN)  # a forked child may have the same file open
            os.close(handle)


def _locked(path: Path, deadline: float) -> int | None:
    """An open file with the lock on it; None if there is none to be had."""
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:  # a folder that is full or read-only; `keep` will say so
            return None
        try:
            while not _try_lock(handle):
                if time.monotonic() > deadline:
                    log.warning("%s has been locked for long: its kernel is compiled beside it", path)
                    os.close(handle)
                    return None
                time.sleep(POLL_S)
            if os.stat(path).st_ino == os.fstat(handle).st_ino:
                return handle
        except FileNotFoundError:
            pass  # who had it removed it: what we locked is no longer the lock
        except OSError:  # a file system without locks
            os.close(handle)
            return None
        os.close(handle)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
