"""An exception of CuPy -> a FarfieldError: what a CUDA error does to the process, in one table.

| effect | means | becomes |
|---|---|---|
| `memory` | there was no room; all else is as before | InsufficientMemory |
| `call` | the call failed; the device computes the next one | DeviceError |
| `lost` | it sticks to the context: each later call of the process fails | DeviceError with `is_lost` |

A name that is not in the table counts as `lost`: to end a program that could have gone on costs a second.
Source: CUDA Runtime API, cudaError; errors whose text asks that "the process must be terminated and relaunched".
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Literal

from .errors import DeviceError, FarfieldError, InsufficientMemory

Effect = Literal["memory", "call", "lost"]

EFFECTS: dict[tuple[str, str], Effect] = {
    ("cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY"): "memory",
    ("cudaErrorInvalidValue", "CUDA_ERROR_INVALID_VALUE"): "call",
    ("cudaErrorInvalidConfiguration", ""): "call",
    ("cudaErrorLaunchOutOfResources", "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"): "call",
    ("cudaErrorInvalidDeviceFunction", ""): "call",
    ("cudaErrorInvalidResourceHandle", "CUDA_ERROR_INVALID_HANDLE"): "call",
    ("cudaErrorSymbolNotFound", "CUDA_ERROR_NOT_FOUND"): "call",
    ("cudaErrorInvalidKernelImage", "CUDA_ERROR_INVALID_IMAGE"): "call",
    ("cudaErrorNoKernelImageForDevice", "CUDA_ERROR_NO_BINARY_FOR_GPU"): "call",
    ("cudaErrorInvalidPtx", "CUDA_ERROR_INVALID_PTX"): "call",
    ("cudaErrorUnsupportedPtxVersion", "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"): "call",
    ("cudaErrorInsufficientDriver", ""): "call",
    ("cudaErrorNoDevice", "CUDA_ERROR_NO_DEVICE"): "call",
    ("cudaErrorInvalidDevice", "CUDA_ERROR_INVALID_DEVICE"): "call",
    ("cudaErrorNotPermitted", "CUDA_ERROR_NOT_PERMITTED"): "call",
    ("cudaErrorNotSupported", "CUDA_ERROR_NOT_SUPPORTED"): "call",
    ("cudaErrorHostMemoryAlreadyRegistered", "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED"): "call",
    ("cudaErrorStreamCaptureUnsupported", "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"): "call",
    ("cudaErrorStreamCaptureInvalidated", "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"): "call",
    ("cudaErrorStreamCaptureUnjoined", "CUDA_ERROR_STREAM_CAPTURE_UNJOINED"): "call",
    ("cudaErrorStreamCaptureIsolation", "CUDA_ERROR_STREAM_CAPTURE_ISOLATION"): "call",
    ("cudaErrorStreamCaptureImplicit", "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT"): "call",
    ("cudaErrorIllegalAddress", "CUDA_ERROR_ILLEGAL_ADDRESS"): "lost",
    ("cudaErrorLaunchFailure", "CUDA_ERROR_LAUNCH_FAILED"): "lost",
    ("cudaErrorLaunchTimeout", "CUDA_ERROR_LAUNCH_TIMEOUT"): "lost",
    ("cudaErrorAssert", "CUDA_ERROR_ASSERT"): "lost",
    ("cudaErrorHardwareStackError", "CUDA_ERROR_HARDWARE_STACK_ERROR"): "lost",
    ("cudaErrorIllegalInstruction", "CUDA_ERROR_ILLEGAL_INSTRUCTION"): "lost",
    ("cudaErrorMisalignedAddress", "CUDA_ERROR_MISALIGNED_ADDRESS"): "lost",
    ("cudaErrorInvalidAddressSpace", "CUDA_ERROR_INVALID_ADDRESS_SPACE"): "lost",
    ("cudaErrorInvalidPc", "CUDA_ERROR_INVALID_PC"): "lost",
    ("cudaErrorECCUncorrectable", "CUDA_ERROR_ECC_UNCORRECTABLE"): "lost",
    ("cudaErrorNvlinkUncorrectable", "CUDA_ERROR_NVLINK_UNCORRECTABLE"): "lost",
    ("cudaErrorContextIsDestroyed", "CUDA_ERROR_CONTEXT_IS_DESTROYED"): "lost",
    ("cudaErrorDeviceUninitialized", "CUDA_ERROR_INVALID_CONTEXT"): "lost",
    ("cudaErrorDevicesUnavailable", "CUDA_ERROR_DEVICE_UNAVAILABLE"): "lost",
    ("cudaErrorUnknown", "CUDA_ERROR_UNKNOWN"): "lost",
}
"""(name of the run time, name of the driver or "" where it has none) -> effect."""

_BY_NAME = {name: effect for names, effect in EFFECTS.items() for name in names if name}
_NAME = re.compile(r"(cudaError\w+|CUDA_ERROR_\w+)")
_ADVICE = {
    "call": "the device goes on computing; if other calls fail as well, 'farfield doctor' says what is missing",
    "lost": "no later call of this process can use the device, start the process anew",
}


def effect_of(name: str) -> Effect:
    """What an error of that name does."""
    return _BY_NAME.get(name, "lost")


def typed(error: Exception) -> FarfieldError | None:
    """The error that a caller meets in place of one of CuPy's; None for any other exception."""
    if type(error).__module__.partition(".")[0] not in ("cupy", "cupy_backends"):
        return None
    found = _NAME.match(str(error))
    name = found[0] if found else type(error).__name__
    effect = "memory" if isinstance(error, MemoryError) else effect_of(name)
    if effect == "memory":
        return InsufficientMemory(
            f"this computation needs more device memory than there is: {error}; fewer rows at a time take less, "
            "FARFIELD_DEVICE_MEMORY_BYTES allows more if the device has it"
        )
    return DeviceError(f"the CUDA device failed with {error}: {_ADVICE[effect]}", is_lost=effect == "lost")


@contextlib.contextmanager
def device_errors() -> Iterator[None]:
    """Exceptions of CuPy leave as typed ones.

    Raises:
        InsufficientMemory, DeviceError: as the table says.
    """
    try:
        yield
    except Exception as error:
        found = typed(error)
        if found is None:
            raise
        raise found from error
