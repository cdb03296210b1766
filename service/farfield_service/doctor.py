"""This machine -> findings: what Farfield needs, what was found, what to do about the rest."""

from __future__ import annotations

import ctypes.util
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass

from farfield_kernels import __version__
from farfield_kernels.build import (
    INSTALL,
    cache_dir,
    cuda_device_count,
    find_compiler,
    import_cupy,
    numpy_reason,
)
from farfield_kernels.errors import FarfieldError
from farfield_kernels.launch import thread_count


@dataclass(frozen=True)
class Finding:
    """One thing looked for."""

    what: str
    found: str
    is_fine: bool = True
    is_needed: bool = False
    advice: str = ""

    @property
    def mark(self) -> str:
        """One word for the eye."""
        return "ok  " if self.is_fine else "MISS" if self.is_needed else "none"


def examine() -> list[Finding]:
    """Look at everything, in the order in which a user would."""
    return [
        Finding("farfield", f"{__version__}, Python {platform.python_version()} on {sys.platform}"),
        *_packages(),
        _compiler(),
        _cpu(),
        _cache(),
        _threads(),
        _cupy(),
        _nvrtc(),
        _gpu(),
        _server(),
    ]


def _packages() -> list[Finding]:
    found = []
    for name, extra in (("torch", "torch"), ("fastapi", "server"), ("uvicorn", "server")):
        try:
            found.append(Finding(name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            found.append(Finding(name, "not installed", False, advice=f"pip install 'farfield[{extra}]'"))
    return found


def _compiler() -> Finding:
    path = find_compiler()
    if path is None:
        is_asked_for = os.environ.get("FARFIELD_CPU") == "compiled"
        return Finding("C++ compiler", "not found", False, is_asked_for, INSTALL)
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    return Finding("C++ compiler", f"{path} ({version.stdout.splitlines()[0] if version.stdout else '?'})")


def _cpu() -> Finding:
    try:
        reason = numpy_reason()
    except FarfieldError as error:
        return Finding("CPU", error.message, False, True, "unset FARFIELD_CPU or give it one of these")
    if reason:
        return Finding("CPU", f"NumPy, about 10 times slower than compiled C++: {reason}")
    return Finding("CPU", "compiled C++ (FARFIELD_CPU=numpy takes NumPy)")


def _cache() -> Finding:
    try:
        folder = cache_dir()
    except (OSError, FarfieldError) as error:
        return Finding("kernel cache", str(error), False, True, "set FARFIELD_CACHE_DIR to a folder of yours")
    kernels = list(folder.glob("*.so"))
    size = sum(kernel.stat().st_size for kernel in kernels) / 2**20
    return Finding(
        "kernel cache",
        f"{folder} ({len(kernels)} kernels, {size:.1f} MiB)",
        os.access(folder, os.W_OK),
        True,
        "" if os.access(folder, os.W_OK) else "set FARFIELD_CACHE_DIR to a folder that you can write to",
    )


def _threads() -> Finding:
    try:
        return Finding("threads", f"{thread_count()} (FARFIELD_THREADS changes it)")
    except FarfieldError as error:
        return Finding("threads", error.message, False, True, "unset FARFIELD_THREADS or give it a number")


def _cupy() -> Finding:
    try:
        cupy = import_cupy()
    except FarfieldError as error:
        return Finding("CuPy", "not installed", False, advice=f"only for GPUs; {error}")
    return Finding("CuPy", str(cupy.__version__))


def _nvrtc() -> Finding:
    try:
        cupy = import_cupy()
        major, minor = cupy.cuda.nvrtc.getVersion()
    except Exception as error:  # a library that is not there surfaces as several classes
        return Finding(
            "NVRTC", f"not usable ({type(error).__name__})", False, advice="it comes with farfield[cuda13]"
        )
    return Finding("NVRTC", f"{major}.{minor}")


def _gpu() -> Finding:
    count = cuda_device_count()
    if count:
        cupy = import_cupy()
        names = [cupy.cuda.runtime.getDeviceProperties(k)["name"].decode() for k in range(count)]
        driver = cupy.cuda.runtime.driverGetVersion()
        return Finding("GPU", f"{', '.join(names)}; driver for CUDA {driver // 1000}.{driver % 1000 // 10}")
    if ctypes.util.find_library("cuda") is None and shutil.which("nvidia-smi") is None:
        return Finding(
            "GPU", "no NVIDIA driver", False, advice="none is needed here if a server with a GPU is used"
        )
    return Finding("GPU", "a driver but no device that CuPy sees", False, advice="compare with nvidia-smi")


def _server() -> Finding:
    url = os.environ.get("FARFIELD_URL")
    if not url:
        return Finding("FARFIELD_URL", "not set: calls run in this process")
    return Finding("FARFIELD_URL", url)
