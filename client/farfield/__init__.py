"""Farfield's client: kernel map-reductions with exact gradients, computed where the GPU is.

import farfield
from farfield.torch import Genred          # or farfield.numpy

farfield.connect("http://gpu-server:8642")  # without it: the embedded engine, in this process
gaussian = Genred("Exp(-g*SqDist(x,y))*b", ["x = Vi(3)", "y = Vj(3)", "b = Vj(1)", "g = Pm(1)"], axis=1)
c = gaussian(x, y, b, g)                    # (M, 1); differentiable
"""

from __future__ import annotations

from farfield_kernels import __version__

from .errors import (
    ArgumentError,
    BuildError,
    BusyError,
    ConnectError,
    DeadlineError,
    DeviceError,
    DtypeError,
    FarfieldError,
    ForbiddenError,
    FormulaError,
    LimitError,
    ProtocolError,
    QuarantinedError,
    QuotaError,
    ServerError,
    ShapeError,
    UnauthorizedError,
)
from .session import Session, connect

__all__ = [
    "ArgumentError",
    "BuildError",
    "BusyError",
    "ConnectError",
    "DeadlineError",
    "DeviceError",
    "DtypeError",
    "FarfieldError",
    "ForbiddenError",
    "FormulaError",
    "LimitError",
    "ProtocolError",
    "QuarantinedError",
    "QuotaError",
    "ServerError",
    "Session",
    "ShapeError",
    "UnauthorizedError",
    "__version__",
    "connect",
]
