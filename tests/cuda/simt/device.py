"""A CUDA device for the back end: the parts of CuPy that it uses, on emulated threads, streams and memory."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from farfield_kernels import build as build_module
from farfield_kernels import cuda_device, engine

from . import memory, streams
from .emulator import Argument, Order, Program, SimtError, build
from .errors import CUDADriverError, CUDARuntimeError
from .memory import DeviceArray, MemoryPool, PinnedMemoryPool
from .streams import Scheduler, Stream

ATTRIBUTES = {"MultiProcessorCount": 8, "ComputeCapabilityMajor": 9}
CAPACITY = 2**31  # bytes


class Emulated(ModuleType):
    """Stands in the place of the module `cupy`.

    Args:
        sanitize: whether kernels are compiled with sanitizers.
        count: devices, which have all streams and memory in common.
        capacity: bytes of a device.

    Attributes:
        order: of blocks and threads in the launches to come.
        scheduler: of what is enqueued; its `seed` decides on the order, its `failures` make calls fail.
        pools: memory pools, in the order in which they were made.
    """

    def __init__(self, sanitize: bool, count: int, capacity: int) -> None:
        super().__init__("cupy")
        self.sanitize, self.count, self.capacity = sanitize, count, capacity
        self.order: Order = "forward"
        self.scheduler, self.pools, self.local = Scheduler(), list[MemoryPool](), threading.local()
        self.ndarray = DeviceArray
        self.cuda = SimpleNamespace(
            Device=lambda number=None: Device(self, self.current if number is None else number),
            Event=lambda disable_timing=False: streams.Event(self.scheduler, disable_timing),
            MemoryPool=self._pool,
            PinnedMemoryPool=lambda: PinnedMemoryPool(self.scheduler),
            Stream=lambda non_blocking: Stream(self.scheduler),
            get_elapsed_time=streams.elapsed_ms,
            runtime=SimpleNamespace(
                CUDARuntimeError=CUDARuntimeError,
                getDeviceCount=lambda: count,
                getDeviceProperties=lambda number: {"name": b"emulated", "totalGlobalMem": capacity},
                hostRegister=self._register,
            ),
            driver=SimpleNamespace(CUDADriverError=CUDADriverError),
            compiler=SimpleNamespace(CompileException=SimtError),
        )

    @property
    def current(self) -> int:
        """The current device of this thread."""
        return getattr(self.local, "device", 0)

    def RawModule(self, code: str, options: Sequence[str], backend: str) -> RawModule:  # noqa: N802
        """A text, to be compiled."""
        return RawModule(self, code)

    def _pool(self) -> MemoryPool:
        self.pools.append(MemoryPool(self.scheduler, self.capacity))
        return self.pools[-1]

    def _register(self, begin: int, size: int, flags: int) -> None:
        self.scheduler.check("register")
        memory.pinned(self.scheduler).append((begin, begin + size))


class Device:
    """See cupy.cuda.Device."""

    def __init__(self, module: Emulated, number: int) -> None:
        self.module, self.id, self.attributes = module, number, ATTRIBUTES

    def use(self) -> None:
        """See CuPy's."""
        self.module.local.device = self.id

    def __enter__(self) -> Device:
        local = self.module.local
        local.before = [*getattr(local, "before", []), self.module.current]
        self.use()
        return self

    def __exit__(self, *error: object) -> None:
        self.module.local.device = self.module.local.before.pop()


class RawModule:
    """Kernels of one text."""

    def __init__(self, device: Emulated, code: str) -> None:
        self.device, self.code = device, code

    def compile(self) -> None:
        """Compile it, or find it compiled."""
        self.device.scheduler.check("compile")
        self.program: Program = build(self.code, self.device.sanitize)

    def get_function(self, name: str) -> Any:
        """A kernel, called as CuPy's are; it runs when its stream does."""
        device = self.device

        def launch(
            grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any], *, shared_mem: int = 0
        ) -> None:
            device.scheduler.check("launch")
            order = device.order
            taken: list[Argument] = [a.storage if isinstance(a, DeviceArray) else a for a in arguments]
            assert not any(isinstance(a, np.ndarray) for a in arguments), "an array of the host"
            device.scheduler.current().enqueue(
                lambda: self.program.launch(name, grid, block, taken, shared_mem, order)
            )

        return launch


def _forget() -> None:
    """What the back end keeps of one device."""
    build_module._modules.clear()
    for kept in (cuda_device._device, cuda_device._cuda_kernels, engine._ready_without_ranges):
        kept.cache_clear()


@contextlib.contextmanager
def emulated(*, sanitize: bool = False, count: int = 1, capacity: int = CAPACITY) -> Iterator[Emulated]:
    """The device `cuda` is the emulated one."""
    device = Emulated(sanitize, count, capacity)
    driver = mock.patch.object(build_module, "_has_driver", return_value=True)
    with mock.patch.dict(sys.modules, cupy=device), driver:
        _forget()
        try:
            yield device
        finally:
            _forget()
