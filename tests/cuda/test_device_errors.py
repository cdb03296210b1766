"""Memory that is short and errors of a CUDA device: what a caller meets, and whether a worker lives on."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np
import pytest

from cuda.calls import Arena, Call, gauss, gradients, uniform
from cuda.simt.device import Emulated, emulated
from cuda.simt.errors import STICKY, CUDADriverError
from farfield_kernels import build as build_module
from farfield_kernels import cuda_device
from farfield_kernels.cuda_device import current_cuda, use_cuda
from farfield_kernels.cuda_errors import EFFECTS, effect_of, typed
from farfield_kernels.engine import prepare
from farfield_kernels.errors import DeviceError, InsufficientMemory
from farfield_kernels.operation import Spec
from farfield_service.worker import Connection, Desk

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ is installed")
MEMORY = "FARFIELD_DEVICE_MEMORY_BYTES"
CALLS = ("malloc", "copy", "launch", "synchronize", "kernel", "pinned")  # of CuPy, which can fail in a request
WIDE = Spec("x*y", ("x = Vi(64)", "y = Vj(64)"))  # arguments and results are large, work is little


@pytest.fixture
def device() -> Iterator[Emulated]:
    """What `cuda` is in a test."""
    with emulated() as device:
        yield device


def wide(M: int) -> Call:
    """A call that takes 512 bytes of the device for each row."""
    return Call("wide", WIDE, uniform((M, 64), (1, 64)))


# ---- memory --------------------------------------------------------------------------------------------------


def test_more_than_the_device_has_is_refused_by_name(device: Emulated, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how much was asked for and what to do; the next call that fits is computed."""
    monkeypatch.setenv(MEMORY, "1000000")
    with pytest.raises(InsufficientMemory, match=r"Out of memory .* FARFIELD_DEVICE_MEMORY_BYTES allows more"):
        wide(10_000).run()
    np.testing.assert_allclose(wide(1000).run()[0], wide(1000).arrays[0] * wide(1000).arrays[1], rtol=1e-6)


def test_what_is_idle_is_given_up_for_other_sizes(device: Emulated, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of many sizes, each of which just fits, follow one another; so do graphs and large calls."""
    monkeypatch.setenv(MEMORY, "1000000")
    for M in (700, 1000, 1500, 1900, 700, 1800, 1850, 1900):
        wide(M).run()
        for rows in (600, 700, 800):
            for _ in range(3):
                gauss(rows, 500).run()
    assert device.scheduler.graph_launches > 0
    assert device.pools[-1].total_bytes() <= 1_000_000


def test_the_pool_is_bounded_and_of_our_own(device: Emulated, monkeypatch: pytest.MonkeyPatch) -> None:
    """By nine tenths of the device, or by bytes; anything else is refused by name."""
    for asked, limit in (("", int(0.9 * device.capacity)), ("0", int(0.9 * device.capacity)), ("1000", 1000)):
        cuda_device._device.cache_clear()
        monkeypatch.setenv(MEMORY, asked)
        assert current_cuda().memory.limit_bytes == limit
    for wrong in ("-1", "many", "1.5", "1e9"):
        cuda_device._device.cache_clear()
        monkeypatch.setenv(MEMORY, wrong)
        with pytest.raises(DeviceError, match=f"{MEMORY} is '{wrong}', a number of bytes is needed"):
            gauss(3, 3).run()


# ---- errors of CUDA ------------------------------------------------------------------------------------------


def test_names_are_those_of_cuda() -> None:
    """The run time that CuPy brings knows each name of the table."""
    if importlib.util.find_spec("cupy_backends") is None:
        pytest.skip("CuPy is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CuPy warns about machines without a GPU
        from cupy.cuda.runtime import CUDARuntimeError
    known = {str(CUDARuntimeError(status)).partition(":")[0] for status in range(1, 1000)}
    assert {name for name, _ in EFFECTS} <= known
    assert {name for name in known if effect_of(name) != "lost"} <= {name for name, _ in EFFECTS}
    found = typed(CUDARuntimeError(700))
    assert isinstance(found, DeviceError)
    assert found.is_lost


def test_errors_that_stick_are_known() -> None:
    """Those of the manual, by either name, and all that the table does not have."""
    assert {name for name in STICKY if effect_of(name) == "lost"} == STICKY
    assert effect_of("CUDA_ERROR_ILLEGAL_ADDRESS") == effect_of("cudaErrorOfTheFuture") == "lost"
    found = typed(CUDADriverError("CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES: too many resources requested"))
    assert isinstance(found, DeviceError)
    assert not found.is_lost
    assert isinstance(typed(CUDADriverError("CUDA_ERROR_OUT_OF_MEMORY: out of memory")), InsufficientMemory)
    assert typed(ValueError("CUDA_ERROR_OUT_OF_MEMORY")) is None


@pytest.mark.parametrize("kind", CALLS)
def test_every_failing_call_has_its_error(kind: str, device: Emulated) -> None:
    """An error that does not stick names itself, and the next call is right; after one that does, none is."""
    call = gradients(70, 90)
    expected = call.run()
    for name in ("cudaErrorInvalidValue", "cudaErrorLaunchOutOfResources", "cudaErrorInvalidConfiguration"):
        device.scheduler.failures[kind] = [name]
        with pytest.raises(DeviceError, match=f"{name}: .* the device goes on computing") as caught:
            run_new(call)
        assert not caught.value.is_lost
    device.scheduler.failures[kind] = ["cudaErrorMemoryAllocation"]
    with pytest.raises(InsufficientMemory, match="cudaErrorMemoryAllocation"):
        run_new(call)
    for got, same in zip(call.run(), expected, strict=True):
        np.testing.assert_array_equal(got, same)
    device.scheduler.failures[kind] = ["cudaErrorECCUncorrectable"]
    for _ in range(2):
        with pytest.raises(DeviceError, match=r"cudaErrorECCUncorrectable.* start the process anew") as caught:
            run_new(call)
        assert caught.value.is_lost


def run_new(call: Call) -> None:
    """Compute a call as if it were the first one, without a graph."""
    current_cuda().replays.clear()
    call.run()


def test_an_error_while_a_module_is_loaded_is_typed(device: Emulated) -> None:
    """Compiling and loading are calls of CuPy too."""
    device.scheduler.failures["compile"] = ["cudaErrorNoKernelImageForDevice"]
    with pytest.raises(DeviceError, match="cudaErrorNoKernelImageForDevice") as caught:
        gauss(5, 6).run()
    assert not caught.value.is_lost


def test_an_error_in_a_replay_is_typed(device: Emulated) -> None:
    """And the call after it is right."""
    call = gauss(70, 90)
    expected = call.run()
    call.run()
    device.scheduler.failures["graph"] = ["cudaErrorInvalidValue"]
    with pytest.raises(DeviceError, match="cudaErrorInvalidValue"):
        call.run()
    np.testing.assert_array_equal(call.run()[0], expected[0])


# ---- the worker ----------------------------------------------------------------------------------------------


class Ended(BaseException):
    """In the place of the end of this process."""


class Worker:
    """The desk of a worker on the emulated device."""

    def __init__(self) -> None:
        self.arena, self.socket = Arena(), socket.socketpair()
        current_cuda().pin(self.arena.memory)
        self.builders = ThreadPoolExecutor(1)
        self.desk = Desk(self.arena.memory, "cuda", Connection(self.socket[0]), self.builders, 0.25)
        self.number = 0

    def asked(self, call: Call) -> dict[str, Any]:
        """The answer to a job, whose kernels are there."""
        self.number += 1
        self.arena.end = 0
        self.outputs = call.results()
        tensors = [[(array.dtype.name, array.shape) for array in part] for part in (call.arrays, self.outputs)]
        message = {
            "op": "begin",
            "job": self.number,
            "request_id": str(self.number),
            "call": msgspec.msgpack.encode((call.spec.changed(), False, *tensors)),
            "inputs": [self._place(array) for array in call.arrays],
            "outputs": [self._place(array) for array in self.outputs],
            "is_built": True,
            "traceparent": None,
        }
        answer = self.desk.answer(message)
        assert answer is not None
        return answer

    def _place(self, array: np.ndarray[Any, Any]) -> int:
        begin = self.arena.end
        self.arena.placed(array)
        return begin

    def close(self) -> None:
        """End the threads."""
        self.builders.shutdown()
        for end in self.socket:
            end.close()


@pytest.fixture
def worker(device: Emulated, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """A worker that raises `Ended` instead of ending."""

    def end(status: int) -> None:
        raise Ended

    monkeypatch.setattr("os._exit", end)
    worker = Worker()
    yield worker
    worker.close()


@pytest.mark.parametrize("kind", CALLS)
def test_a_worker_lives_on_or_ends(kind: str, device: Emulated, worker: Worker) -> None:
    """Errors that do not stick are answers, after which it computes; one that does ends it."""
    call = gradients(70, 90)
    assert "done" in worker.asked(call)
    answers = {"cudaErrorMemoryAllocation": "insufficient_memory", "cudaErrorInvalidValue": "device_error"}
    for name, code in answers.items():
        current_cuda().replays.clear()
        device.scheduler.failures[kind] = [name]
        assert worker.asked(call)["error"]["code"] == code
        assert "done" in worker.asked(call)
    assert not worker.desk.jobs
    current_cuda().replays.clear()
    device.scheduler.failures[kind] = ["cudaErrorIllegalAddress"]
    with pytest.raises(Ended):
        worker.asked(call)


def test_a_worker_says_that_memory_is_short(worker: Worker) -> None:
    """The device's, by its code, and goes on."""
    current_cuda().memory.pool.set_limit(size=1_000_000)
    answer = worker.asked(wide(10_000))
    assert answer["error"]["code"] == "insufficient_memory"
    assert "done" in worker.asked(wide(1000))


# ---- several devices -----------------------------------------------------------------------------------------


def test_each_thread_computes_on_the_device_it_took() -> None:
    """A worker's builders compile for the device of the worker, not for the first one."""
    call, loaded = gauss(5, 6), list[str]()
    with emulated(count=2):
        use_cuda(3)

        def build() -> None:
            prepare(call.spec, call.arrays, device="cuda")
            loaded.extend(build_module._modules)

        with ThreadPoolExecutor(1, initializer=use_cuda, initargs=(3,)) as builders:
            builders.submit(build).result()
        assert [key.rpartition(".")[2] for key in loaded] == ["1"]
        assert current_cuda().memory.device.id == 1
        thread = threading.Thread(target=lambda: loaded.append(str(current_cuda().memory.device.id)))
        thread.start()
        thread.join()
        assert loaded[-1] == "0"
        use_cuda(0)
