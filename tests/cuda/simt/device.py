"""A CUDA device for the back end: the parts of CuPy that it uses, on NumPy arrays and emulated threads."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from farfield_kernels import build as build_module
from farfield_kernels import engine, execute

from .emulator import Argument, Order, Program, SimtError, build

ATTRIBUTES = {"MultiProcessorCount": 8, "ComputeCapabilityMajor": 9}


class Emulated(ModuleType):
    """Stands in the place of the module `cupy`.

    Args:
        sanitize: whether kernels are compiled with sanitizers.

    Attributes:
        order: of blocks and threads in the launches to come.
    """

    def __init__(self, sanitize: bool) -> None:
        super().__init__("cupy")
        self.sanitize = sanitize
        self.order: Order = "forward"
        self.cuda = SimpleNamespace(
            Device=lambda: SimpleNamespace(id=0, attributes=ATTRIBUTES),
            get_current_stream=Stream,
            Stream=Stream,
            runtime=SimpleNamespace(getDeviceCount=lambda: 1),
            compiler=SimpleNamespace(CompileException=SimtError),
        )

    def RawModule(self, code: str, options: Sequence[str], backend: str) -> RawModule:  # noqa: N802
        """A text, to be compiled."""
        return RawModule(self, code)

    def asarray(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """A copy, as if on the device."""
        return np.array(array, order="C")

    def asnumpy(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """A copy, as if on the host."""
        return array.copy()

    def empty(self, shape: int | tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        """Memory that holds NaN, of integers -1."""
        array = np.empty(shape, dtype)
        array.view(np.uint8)[...] = 0xFF
        return array


class Stream(contextlib.nullcontext["Stream"]):
    """What is launched on it is done at once."""

    def __init__(self, non_blocking: bool = False) -> None:
        super().__init__(self)

    def synchronize(self) -> None:
        """Nothing is left to do."""

    def record(self) -> None:
        """An event, of the past."""

    def wait_event(self, event: None) -> None:
        """It is over."""


class RawModule:
    """Kernels of one text."""

    def __init__(self, device: Emulated, code: str) -> None:
        self.device, self.code = device, code

    def compile(self) -> None:
        """Compile it, or find it compiled."""
        self.program: Program = build(self.code, self.device.sanitize)

    def get_function(self, name: str) -> Any:
        """A kernel, called as CuPy's are."""

        def launch(
            grid: Sequence[int], block: Sequence[int], arguments: Sequence[Argument], *, shared_mem: int = 0
        ) -> None:
            self.program.launch(name, grid, block, arguments, shared_mem, self.device.order)

        return launch


def _forget() -> None:
    """What the back end keeps of one device."""
    build_module._modules.clear()
    for kept in (execute._cuda, execute._cuda_kernels, engine._ready_without_ranges):
        kept.cache_clear()


@contextlib.contextmanager
def emulated(*, sanitize: bool = False) -> Iterator[Emulated]:
    """The device `cuda` is the emulated one."""
    device = Emulated(sanitize)
    driver = mock.patch.object(build_module, "_has_driver", return_value=True)
    with mock.patch.dict(sys.modules, cupy=device), driver:
        _forget()
        try:
            yield device
        finally:
            _forget()
