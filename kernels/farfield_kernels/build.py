"""Source -> binary: compiled once per key, kept in memory and on disk, shared between processes.

A key is the sha256 of source, flags, compiler and processor, so that a cache on a shared disk never hands a
machine code that it cannot run. One thread of one process compiles a key while all others wait for it; the file
appears under its name only when it is complete.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import BuildError, CompilerMissingWarning, DeviceError

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
COMPILE_TIMEOUT_S = 120
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


def _after_fork() -> None:
    # A lock that another thread of the parent held would stay locked in the child for ever.
    global _flights
    _flights = _Flights()


os.register_at_fork(after_in_child=_after_fork)


def cache_dir() -> Path:
    """Where binaries are kept: `FARFIELD_CACHE_DIR`, else `~/.cache/farfield`; created with mode 0700."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("FARFIELD_CACHE_DIR") or Path(caches) / "farfield")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        if status.st_uid != os.getuid():
            raise BuildError(f"the kernel cache {folder} belongs to another user; set FARFIELD_CACHE_DIR")
        if status.st_mode & 0o022:
            raise BuildError(f"others may write to the kernel cache {folder}: run 'chmod go-w {folder}'")
    except OSError as error:
        raise _unusable_cache(error) from None
    return folder


def _unusable_cache(error: OSError) -> BuildError:
    return BuildError(f"the kernel cache cannot be used ({error}); set FARFIELD_CACHE_DIR to a folder of yours")


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


def build_cpp(source: str) -> ctypes.CDLL:
    """Compile and load C++ source.

    Raises:
        BuildError: no compiler, or it failed; the message says what to install or what it printed.
    """
    compiler = find_compiler()
    if compiler is None:
        raise BuildError(f"{_missing()}: {INSTALL}, or set FARFIELD_CXX")
    key = cpp_key(source, compiler)
    library = _libraries.get(key)
    if library is None:
        with _flights.alone(key):
            library = _libraries.get(key)
            if library is None:
                try:
                    library = _libraries[key] = _loaded(source, key, compiler)
                except OSError as error:
                    raise _unusable_cache(error) from None
    return library


def _loaded(source: str, key: str, compiler: str) -> ctypes.CDLL:
    """The binary, compiled anew if the one on disk is damaged."""
    binary = _compiled(source, key, compiler)
    try:
        return ctypes.CDLL(str(binary))
    except OSError:
        binary.unlink(missing_ok=True)
        return ctypes.CDLL(str(_compiled(source, key, compiler)))


def loaded_count() -> int:
    """How many binaries this process has loaded; a loaded one cannot be given back."""
    return len(_libraries) + len(_modules)


def _compiled(source: str, key: str, compiler: str) -> Path:
    folder = cache_dir()
    binary = folder / f"{key}.so"
    if binary.exists():
        return binary
    waiting = folder / f"{key}.lock"
    try:
        with open(waiting, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not binary.exists():
                _compile(source, binary, compiler)
    finally:
        waiting.unlink(missing_ok=True)
    return binary


def _compile(source: str, binary: Path, compiler: str) -> None:
    handle, unfinished = tempfile.mkstemp(dir=binary.parent, suffix=".tmp")
    os.close(handle)
    try:
        command = [compiler, *CPP_FLAGS, "-x", "c++", "-", "-o", unfinished]
        try:
            done = subprocess.run(
                command, input=source.encode(), capture_output=True, timeout=COMPILE_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise BuildError(f"compiling took more than {COMPILE_TIMEOUT_S} s") from None
        if done.returncode:
            printed = done.stderr.decode(errors="replace").strip()[-2000:]
            raise BuildError(f"{compiler} ended with {done.returncode}: {printed}")
        os.replace(unfinished, binary)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(unfinished)


def build_cuda(source: str) -> Any:
    """Compile CUDA source for the current device with NVRTC and load it as a CuPy module.

    CuPy keeps the binary on disk, keyed by source, options, compiler and architecture.

    Raises:
        DeviceError: CuPy or a device is missing. BuildError: NVRTC refused the source.
    """
    cupy = import_cupy()
    key = hashlib.sha256(source.encode()).hexdigest() + f".{cupy.cuda.Device().id}"
    with _flights.alone(key):
        module = _modules.get(key)
        if module is None:
            module = cupy.RawModule(code=source, options=CUDA_OPTIONS, backend="nvrtc")
            try:
                module.compile()
            except cupy.cuda.compiler.CompileException as error:
                raise BuildError(f"NVRTC refused the emitted source: {str(error)[-2000:]}") from error
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
