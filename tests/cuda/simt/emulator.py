"""Emitted CUDA text -> what it computes: compiled by g++ with simt.h, run on the CPU, as README.md says."""

from __future__ import annotations

import ctypes
import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from farfield_kernels.emit.intrinsics import INTRINSICS

HERE = Path(__file__).parent
FLAGS = ("-std=c++17", "-O1", "-g0", "-w", "-fPIC", "-fno-gnu-unique")
SANITIZERS = (
    "-g1",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-fsanitize-sections=simt_shared",
)
ENVIRONMENT = {
    "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
    "UBSAN_OPTIONS": "print_stacktrace=0",
}
TIMEOUT_S = 120
DYNAMIC = re.compile(r"extern\s+__shared__\s+(?:__align__\(.+?\)\s+)?([\w ]+?)\s+(\w+)\s*\[\s*\]\s*;")
KERNEL = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\s*\(")
ORDERS = {"forward": 0, "backward": -1}

Order = str | int
Argument = np.ndarray[Any, Any] | np.generic | None


class SimtError(Exception):
    """The text was refused, or a launch went wrong: a barrier that not all threads reach, a read past an end."""


@dataclass(frozen=True)
class Program:
    """The kernels of one text.

    Args:
        source: the CUDA text.
        binary: what was compiled from it.
        library: the binary; None where it is a program with sanitizers.
    """

    source: str
    binary: Path
    library: ctypes.CDLL | None

    def launch(
        self,
        kernel: str,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        arguments: Sequence[Argument],
        shared_bytes: int = 0,
        order: Order = "forward",
    ) -> None:
        """Run a grid to its end.

        Args:
            kernel: its name.
            grid: blocks along x, y, z.
            block: threads of a block along x, y, z.
            arguments: C-contiguous arrays, changed in place; NumPy numbers of the parameter's type; None for null.
            shared_bytes: of `extern __shared__` arrays.
            order: of the blocks, and of threads between two barriers: `forward`, `backward`, or a seed from 1 on.

        Raises:
            SimtError: the kernel did what it may not; the message names block, thread and line where known.
        """
        if kernel not in KERNEL.findall(self.source):
            raise SimtError(f"there is no kernel {kernel}")
        shape = [(*extent, 1, 1)[:3] for extent in (np.atleast_1d(grid), np.atleast_1d(block))]
        number = ORDERS[order] if isinstance(order, str) else order
        run = self._sanitized if self.library is None else self._direct
        error = run(f"simt_{kernel}", shape, shared_bytes, number, list(arguments))
        if error:
            raise SimtError(f"{kernel}: {error}{self._quoted(error)}")

    def _direct(self, kernel: str, shape: Any, shared: int, order: int, arguments: list[Argument]) -> str:
        values = [_word(argument) for argument in arguments]
        addresses = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        sizes = (ctypes.c_size_t * len(values))(*(value.nbytes for value in values))
        grid, block = ((ctypes.c_uint * 3)(*map(int, extent)) for extent in shape)
        call = _run_time_library().simt_launch
        call.restype = ctypes.c_char_p
        entry = ctypes.byref(ctypes.c_char.in_dll(self.library, kernel))
        words = (ctypes.c_size_t(shared), ctypes.c_long(order), ctypes.c_size_t(len(values)), addresses, sizes)
        return (call(entry, grid, block, *words) or b"").decode()

    def _sanitized(self, kernel: str, shape: Any, shared: int, order: int, arguments: list[Argument]) -> str:
        parts = [np.int64([*shape[0], *shape[1], shared, order, len(arguments)])]
        for argument in arguments:
            held = _word(argument) if not isinstance(argument, np.ndarray) else argument
            parts += [np.int64([isinstance(argument, np.ndarray), held.nbytes]), held]
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"".join(part.tobytes() for part in parts))
            file.flush()
            words, environment = (str(self.binary), kernel, file.name), os.environ | ENVIRONMENT
            done = subprocess.run(
                words, capture_output=True, text=True, env=environment, timeout=TIMEOUT_S, check=False
            )
            if done.returncode:
                return done.stderr.partition("\nSUMMARY")[0] or f"status {done.returncode}"
            written = Path(file.name).read_bytes()
        for array in (argument for argument in arguments if isinstance(argument, np.ndarray)):
            if array.flags.writeable:
                array[...] = np.frombuffer(written[: array.nbytes], array.dtype).reshape(array.shape)
            written = written[array.nbytes :]
        return ""

    def _quoted(self, error: str) -> str:
        lines = self.source.splitlines()
        numbers = {int(number) for number in re.findall(r"(?:line |emitted\.cu:)(\d+)", error)}
        return "".join(f"\n  {number}: {lines[number - 1].strip()}" for number in sorted(numbers))


def _word(argument: Argument) -> np.ndarray[Any, Any]:
    """The bytes that a kernel is handed."""
    if isinstance(argument, np.ndarray):
        assert argument.flags.c_contiguous
        return np.array(argument.ctypes.data, np.uintp)
    return np.array(0 if argument is None else argument, np.uintp if argument is None else argument.dtype)


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="farfield-simt-")  # removed when the process ends


def _compile(words: Sequence[str], text: str | None = None) -> None:
    done = subprocess.run([_compiler(), *FLAGS, *words], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SimtError(done.stderr)


def _compiler() -> str:
    path = shutil.which("g++")
    if path is None:
        raise SimtError("no g++ is installed")
    return path


@functools.cache
def _run_time(sanitize: bool) -> tuple[str, ...]:
    """Words of the command for every text: what is compiled once per process, its header among it."""
    folder = Path(_folder().name, "sanitized" if sanitize else "plain")
    folder.mkdir()
    flags = SANITIZERS if sanitize else ()
    _compile((*flags, "-x", "c++-header", str(HERE / "simt.h"), "-o", str(folder / "simt.h.gch")))
    included = (*flags, f"-I{folder}", f"-I{HERE}")
    if not sanitize:
        _compile(("-shared", str(HERE / "simt.cpp"), "-o", str(folder / "simt.so")))
        return (*included, "-shared")
    objects = [str(folder / f"{name}.o") for name in ("simt", "program")]
    for target in objects:
        _compile((*flags, "-c", str(HERE / Path(target).with_suffix(".cpp").name), "-o", target))
    return (*included, "-rdynamic", *objects)


@functools.cache
def _run_time_library() -> ctypes.CDLL:
    """Loaded once, for all kernels to find."""
    return ctypes.CDLL(str(Path(_folder().name, "plain", "simt.so")), ctypes.RTLD_GLOBAL)


@functools.cache
def build(source: str, sanitize: bool = False) -> Program:
    """Compile CUDA text; equal texts are compiled once.

    Args:
        source: as NVRTC gets it. The texts of `INTRINSICS` in it give way to functions of simt.h.
        sanitize: with AddressSanitizer and UndefinedBehaviorSanitizer, each launch in a process of its own.

    Raises:
        SimtError: g++ refuses it.
    """
    text = source
    for inline in INTRINSICS.values():
        text = text.replace(inline, "\n" * inline.count("\n"))  # lines keep their numbers
    text = DYNAMIC.sub(r"\1 *const \2 = (\1 *)simt::dynamic_shared;", text)
    entries = "\n".join(f"SIMT_KERNEL({name})" for name in KERNEL.findall(text))
    text = f'#include "simt.h"\n#line 1 "emitted.cu"\n{text}\n{entries}\n'
    binary = Path(_folder().name, f"{build.cache_info().currsize}-{len(source)}{'' if sanitize else '.so'}")
    _compile((*_run_time(sanitize), "-x", "c++", "-", "-o", str(binary)), text)
    if sanitize:
        return Program(source, binary, None)
    _run_time_library()
    return Program(source, binary, ctypes.CDLL(str(binary)))
