"""The program that reads long formulas: `python -m farfield_service.planning`, started by the planner.

| message | answer |
|---|---|
| `outline` of a spec | `outline` |
| `predict` a spec on sizes | `prediction` |

Instead of either, an `error` of the formula. It ends when its socket is closed or its parent dies.
"""

from __future__ import annotations

import signal
import socket
import sys
from typing import Any

import msgspec

from farfield_kernels.arguments import Sizes
from farfield_kernels.errors import FarfieldError
from farfield_kernels.operation import Spec, outline, read
from farfield_kernels.predict import predict

from .logs import configure
from .worker import Connection, die_with


def main(arguments: list[str]) -> int:
    """Answer until the socket closes. Arguments: socket fd, and the start message as JSON."""
    start = msgspec.json.decode(arguments[1])
    configure(start["log_format"], start["log_level"])
    die_with(start["parent"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server decides
    connection = Connection(socket.socket(fileno=int(arguments[0])))
    connection.send({"ready": True})
    while (message := connection.receive()) is not None:
        connection.send(_answer(message))
    return 0


def _answer(message: dict[str, Any]) -> dict[str, Any]:
    try:
        spec = Spec(**message["spec"])
        if message["op"] == "outline":
            return {"outline": outline(read(spec))}
        return {"prediction": predict(spec, msgspec.convert(message["sizes"], Sizes), message["device"])}
    except FarfieldError as error:
        return {"error": {"code": error.code, "message": error.message, **error.details()}}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
