"""The exceptions of CuPy, as an emulated driver raises them."""

from __future__ import annotations

# Those of the CUDA manual that ask for a new process; not read from the product's table, which is to be tested.
STICKY = frozenset(
    """
    cudaErrorIllegalAddress cudaErrorLaunchFailure cudaErrorLaunchTimeout cudaErrorAssert
    cudaErrorHardwareStackError cudaErrorIllegalInstruction cudaErrorMisalignedAddress
    cudaErrorInvalidAddressSpace cudaErrorInvalidPc cudaErrorECCUncorrectable
    """.split()
)


class CUDARuntimeError(RuntimeError):
    """A call of the run time failed."""

    __module__ = "cupy_backends.cuda.api.runtime"

    def __init__(self, name: str) -> None:
        super().__init__(f"{name}: as the emulated device was told")
        self.name, self.is_sticky = name, name in STICKY


class CUDADriverError(RuntimeError):
    """A call of the driver failed."""

    __module__ = "cupy_backends.cuda.api.driver"


class OutOfMemoryError(MemoryError):
    """A pool has no room."""

    __module__ = "cupy.cuda.memory"


def runtime_error(name: str) -> CUDARuntimeError:
    """One of that name."""
    return CUDARuntimeError(name)
