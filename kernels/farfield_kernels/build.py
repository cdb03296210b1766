"""Source -> binary: compiled once per key, kept in memory and on disk, shared between processes.

A key is the sha256 of source, flags, compiler and processor, so that a cache on a shared disk never hands a
machine code that it cannot run. One thread of one process compiles a key while all others wait for it, within
limits of time and memory; a source that was refused is not compiled again for a while. Where nothing can be kept
(see `cache`), kernels are compiled and loaded all the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import hashlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .cache import alone, keep, place, read, warn_of
from .cache import cache_dir as cache_dir
from .errors import BuildError, BuildTimeout, CompilerMissingWarning, DeviceError

# No -ffast-math: it assumes NaN and infinities away and deletes range reduction.
CPP_FLAGS = (
    "-O2",
    "-march=native",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-ivopts",
    "-shared",
    "-fPIC",
    "-w",
)
CUDA_OPTIONS = ("--std=c++17",)
COMPILE_TIMEOUT_S = 60.0  # unless `FARFIELD_COMPILE_TIMEOUT_S` says otherwise
COMPILE_KIB = 4 * 2**20  # of address space, for each program of the compiler
REFUSED_S = 60.0  # for which a source that the compiler refused is not compiled again
MAX_REFUSED = 1000  # that are remembered

# What a compiler prints where the disk is at fault: another folder may do, and the next call may try again.
_DISK = re.compile(
    "No space left|Disk quota exceeded|Read-only file system|File too large|File size limit exceeded"
    "|Cannot create temporary|Input/output error",
    re.IGNORECASE,
)
_NOT_RUN = (126, 127)  # statuses of a shell that could not start the compiler
# Limits that hold for the compiler alone, and still do when this process is gone.
_LIMITED = 'ulimit -v "$1"; ulimit -t "$2"; shift 2; exec "$@"'
COMPILERS = ("g++", "clang++", "c++")
INSTALL = (
    "install one, on Debian or Ubuntu with 'apt install g++', on Fedora with 'dnf install gcc-c++', on macOS with "
    "'xcode-select --install', in conda with 'conda install -c conda-forge gxx'"
)
CPU_PATHS = ("auto", "compiled", "numpy")


class _Flights:
    """One lock per key, so that equal work is done once while different work goes on in parallel."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.keys: dict[str, threading.Lock] = {}

    @contextlib.contextmanager
    def alone(self, key: str) -> Iterator[None]:
        with self.lock:
            lock = self.keys.setdefault(key, threading.Lock())
        try:
            with lock:
                yield
        finally:
            with self.lock:
                self.keys.pop(key, None)  # who comes later finds the work done


_flights = _Flights()
_libraries: dict[str, ctypes.CDLL] = {}
_modules: dict[str, Any] = {}
_refused: dict[str, tuple[float, BuildError]] = {}


def _after_fork() -> None:
    # A lock that another thread of the parent held would stay locked in the child for ever.
    global _flights
    _flights = _Flights()


os.register_at_fork(after_in_child=_after_fork)


def find_compiler() -> str | None:
    """Path of the C++ compiler: `FARFIELD_CXX`, else the first of g++, clang++, c++; None without one."""
    asked = os.environ.get("FARFIELD_CXX")
    names = (asked,) if asked else COMPILERS
    return next((path for name in names if (path := shutil.which(name))), None)


def _missing() -> str:
    return f"no C++ compiler was found (looked for {os.environ.get('FARFIELD_CXX') or ', '.join(COMPILERS)})"


def numpy_reason() -> str | None:
    """Why calls on the CPU run on NumPy; None if they are compiled.

    `FARFIELD_CPU` says `compiled`, `numpy` or `auto`, which is `compiled` where there is a compiler.

    Raises:
        BuildError: it says something else.
    """
    return _numpy_reason(*map(os.environ.get, ("FARFIELD_CPU", "FARFIELD_CXX", "PATH")))


@functools.lru_cache(maxsize=8)
def _numpy_reason(asked: str | None, compiler: str | None, path: str | None) -> str | None:
    """Cached by what it depends on: to search the path takes as long as a small call."""
    if asked and asked not in CPU_PATHS:
        raise BuildError(f"FARFIELD_CPU is '{asked}', it is one of {', '.join(CPU_PATHS)}")
    if asked == "numpy":
        return "FARFIELD_CPU is numpy"
    return None if asked == "compiled" or find_compiler() else _missing()


_has_warned = False


def warn_of_numpy() -> None:
    """Say once per process that a compiler is missing, unless NumPy was asked for."""
    global _has_warned
    if _has_warned or os.environ.get("FARFIELD_CPU") == "numpy":
        return
    warnings.warn(
        f"{_missing()}, so formulas run on NumPy: the results are the same, but take about 10 times as long; "
        f"{INSTALL}; or set FARFIELD_CPU=numpy to be told no more",
        CompilerMissingWarning,
        stacklevel=3,  # who called engine.run
    )
    _has_warned = True  # where warnings are errors, the next call says it again


@functools.lru_cache(maxsize=8)
def _compiler_identity(path: str, modified_ns: int, size: int) -> str:
    return f"{os.path.realpath(path)} {modified_ns} {size}"


@functools.cache
def processor() -> str:
    """Model and instruction sets: what `-march=native` looks at."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    kept = ("model name", "flags", "Features", "CPU part")
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(kept)))


def cpp_key(source: str, compiler: str) -> str:
    """The key of one C++ source."""
    status = os.stat(compiler)
    identity = _compiler_identity(compiler, status.st_mtime_ns, status.st_size)
    text = "\0".join([source, " ".join(CPP_FLAGS), identity, processor()])
    return hashlib.sha256(text.encode()).hexdigest()


def compile_timeout_s() -> float:
    """How long a compiler may take: `FARFIELD_COMPILE_TIMEOUT_S`, else 60 s.

    Raises:
        BuildError: the setting is not a positive number.
    """
    asked = os.environ.get("FARFIELD_COMPILE_TIMEOUT_S")
    try:
        timeout_s = float(asked or COMPILE_TIMEOUT_S)
    except ValueError:
        timeout_s = 0.0
    if not 0 < timeout_s < 1e6:
        raise BuildError(f"FARFIELD_COMPILE_TIMEOUT_S is '{asked}', a positive number of seconds is needed")
    return timeout_s


def build_cpp(source: str) -> ctypes.CDLL:
    """Compile and load C++ source.

    Raises:
        BuildError: no compiler, or it failed; the message says what to install or what it printed.
        BuildTimeout: it took too long.
    """
    compiler = find_compiler()
    if compiler is None:
        raise BuildError(f"{_missing()}: {INSTALL}, or set FARFIELD_CXX")
    key = cpp_key(source, compiler)
    library = _libraries.get(key)
    if library is None:
        _check_refused(key)
        with _flights.alone(key):
            library = _libraries.get(key)
            if library is None:
                _check_refused(key)
                library = _libraries[key] = _loaded(source, key, compiler)
    return library


def _check_refused(key: str) -> None:
    """Raise again what this source was refused with a moment ago."""
    until, error = _refused.get(key, (0.0, None))
    if error is not None and time.monotonic() < until:
        raise type(error)(error.message, limit=error.limit)


def _refuse(key: str, error: BuildError) -> BuildError:
    """Remember that a source cannot be compiled."""
    now = time.monotonic()
    for old, (until, _) in list(_refused.items()):
        if until < now or len(_refused) >= MAX_REFUSED:
            _refused.pop(old, None)
    _refused[key] = (now + REFUSED_S, error)
    return error


def _loaded(source: str, key: str, compiler: str) -> ctypes.CDLL:
    """The library on disk, or a new one if there is none or it is damaged."""
    path = place(f"{key}.so")
    library = _kept(path)
    if library is None:
        with alone(path, compile_timeout_s()):
            library = _kept(path)
            if library is None:
                library = _made(source, key, compiler, path)
    return library


def _kept(path: Path | None) -> ctypes.CDLL | None:
    if path is None or read(path) is None:
        return None
    try:
        return ctypes.CDLL(str(path))
    except OSError:  # removed this moment by another process, or a folder that nothing may be run from
        return None


def loaded_count() -> int:
    """How many binaries this process has loaded; a loaded one cannot be given back."""
    return len(_libraries) + len(_modules)


def _made(source: str, key: str, compiler: str, path: Path | None) -> ctypes.CDLL:
    """The library, compiled in the first folder that has room for it, and kept if the cache has."""
    causes: dict[str, None] = {}
    for folder in _folders(path):
        try:
            with tempfile.TemporaryDirectory(prefix="farfield-", suffix=".tmp", dir=folder) as own:
                binary = Path(own) / "kernel.so"
                _compile(source, key, compiler, binary)
                return _placed(binary, path)
        except OSError as error:
            causes[str(error)] = None
    raise BuildError(
        f"there is no folder to compile in ({'; '.join(causes)}): make room, or set TMPDIR to a folder of yours"
    )


def _folders(path: Path | None) -> Iterator[str]:
    """Where a compiler may write: folders for temporary files, the cache, memory."""
    with contextlib.suppress(OSError):
        yield tempfile.gettempdir()
    if path is not None:
        yield str(path.parent)
    yield "/dev/shm"  # noqa: S108 a folder of our own is made in it


def _placed(binary: Path, path: Path | None) -> ctypes.CDLL:
    """The library, loaded from the cache or, if it cannot be kept, from where it is; it may be removed then."""
    if path is not None:
        try:
            keep(path, binary.read_bytes())
            return ctypes.CDLL(str(path))
        except OSError as error:
            warn_of(error)
    return ctypes.CDLL(str(binary))


def _compile(source: str, key: str, compiler: str, binary: Path) -> None:
    """Run the compiler.

    Raises:
        OSError: nothing can be written there. BuildError, BuildTimeout: the source was refused.
    """
    timeout_s = compile_timeout_s()
    limits = (str(COMPILE_KIB), str(int(timeout_s) + 1))
    command = ["/bin/sh", "-c", _LIMITED, "sh", *limits, compiler, *CPP_FLAGS, "-x", "c++", "-", "-o", str(binary)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(binary.parent), "LC_ALL": "C"},
        process_group=0,
    ) as running:
        try:
            _, printed = running.communicate(source.encode(), timeout_s)
        except BaseException as error:  # an interrupt does not reach a group of its own
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            sentence = (
                f"compiling took more than {timeout_s:g} s: smaller dims or a shorter formula take less, "
                "FARFIELD_COMPILE_TIMEOUT_S allows more"
            )
            raise _refuse(key, BuildTimeout(sentence, limit=int(timeout_s))) from None
    if running.returncode:
        words = printed.decode(errors="replace").strip()[-2000:]
        if _DISK.search(words):
            raise OSError(errno.ENOSPC, " ".join(words.split()))
        failure = BuildError(f"{compiler} ended with {running.returncode}: {words}")
        raise failure if running.returncode in _NOT_RUN else _refuse(key, failure)


def build_cuda(source: str) -> Any:
    """Compile CUDA source for the current device with NVRTC and load it as a CuPy module.

    CuPy keeps the binary in a folder of its own, keyed by source, options, compiler and architecture, with a
    checksum: one that is damaged is compiled anew.

    Raises:
        DeviceError: CuPy or a device is missing. BuildError: NVRTC refused the source.
    """
    cupy = import_cupy()
    key = hashlib.sha256(source.encode()).hexdigest() + f".{cupy.cuda.Device().id}"
    with _flights.alone(key):
        module = _modules.get(key)
        if module is None:
            _check_refused(key)
            module = cupy.RawModule(code=source, options=CUDA_OPTIONS, backend="nvrtc")
            try:
                module.compile()
            except cupy.cuda.compiler.CompileException as error:
                words = f"NVRTC refused the emitted source: {str(error)[-2000:]}"
                raise _refuse(key, BuildError(words)) from error
            _modules[key] = module
    return module


def import_cupy() -> Any:
    """The cupy package.

    Raises:
        DeviceError: it is not installed, with the extra that brings it.
    """
    try:
        import cupy
    except ImportError as error:
        raise DeviceError(
            f"the cuda device needs CuPy ({error}): pip install 'farfield[cuda13]' or 'farfield[cuda12]'"
        ) from None
    return cupy


@functools.cache
def _has_driver() -> bool:
    """Whether the library of NVIDIA's driver is there: looked for first, as importing CuPy takes 0.1 s."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def cuda_device_count() -> int:
    """How many CUDA devices CuPy sees; 0 without CuPy or a driver."""
    if not _has_driver():
        return 0
    try:
        cupy = import_cupy()
        return int(cupy.cuda.runtime.getDeviceCount())
    except Exception:  # a missing driver surfaces as several classes, none of them public
        return 0
