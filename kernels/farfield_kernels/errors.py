"""Everything that can go wrong between a formula and its result, as one tree.

    FarfieldError
    ├── FormulaError        the text of a formula, variable or reduction is wrong
    ├── ArgumentError       an array does not fit its variable
    │   ├── DtypeError          its element type
    │   └── ShapeError          its shape
    ├── LimitError          more than this installation computes in one call
    │   └── InsufficientMemory  more memory than the device has, or a worker
    └── BuildError          no compiler, or the compiler refused the emitted source
        ├── BuildTimeout        compiling took too long
        └── DeviceError         the device asked for is not there, or failed

Every class carries a stable `code`: the server puts it on the wire, the client finds the class by it.
`CompilerMissingWarning` is no error: the results are right, they only take longer.
"""

from __future__ import annotations


class RuleError(Exception):
    """A short reason, raised inside the compiler; the entry point adds name, text and place.

    Args:
        limit: the largest allowed value, if a limit was exceeded.
    """

    def __init__(self, reason: str, limit: int | None = None) -> None:
        super().__init__(reason)
        self.limit = limit


class FarfieldError(Exception):
    """Root of every error a caller can meet.

    Args:
        message: one sentence: what, where, the values, what was allowed.
        field: the argument or request field at fault, if one is.
        limit: the largest allowed value, if a limit was exceeded.
    """

    code = "error"

    def __init__(self, message: str, *, field: str | None = None, limit: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.limit = limit

    def details(self) -> dict[str, object]:
        """What the wire carries besides code and message; `None` values are left out there."""
        return {"field": self.field, "limit": self.limit}

    def __str__(self) -> str:
        return self.message


class FormulaError(FarfieldError, ValueError):
    """The text of a formula, a variable or a reduction is wrong.

    Args:
        message: the reason, without the text.
        text: the text that was read.
        position: index into `text` of the first character at fault.
        field: `formula`, `variables[2]`, `reduction`, ...
        limit: the largest allowed value, if a limit of the language was exceeded.
    """

    code = "formula_error"

    def __init__(
        self,
        message: str,
        *,
        text: str = "",
        position: int | None = None,
        field: str | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(message, field=field, limit=limit)
        self.text = text
        self.position = position

    def details(self) -> dict[str, object]:
        """Adds text (at most 200 characters of it) and position, for the caret."""
        return super().details() | {"text": self.text[:200], "position": self.position}

    def __str__(self) -> str:
        if self.position is None or not self.text:
            return self.message
        start = max(0, self.position - 60)
        shown = "".join(c if c.isprintable() else " " for c in self.text[start : start + 120])
        before = "..." if start else ""
        after = "..." if start + 120 < len(self.text) else ""
        caret = " " * (len(before) + self.position - start) + "^"
        return f"{self.message}\n    {before}{shown}{after}\n    {caret}"


class ArgumentError(FarfieldError, ValueError):
    """The arrays of a call do not fit the variables: their number, or one that is not an array."""

    code = "argument_error"


class DtypeError(ArgumentError, TypeError):
    """An array's element type does not fit."""

    code = "dtype_error"


class ShapeError(ArgumentError):
    """An array's shape does not fit."""

    code = "shape_error"


class LimitError(FarfieldError):
    """More than this installation computes in one call; `limit` says how much it does."""

    code = "limit_exceeded"


class InsufficientMemory(LimitError, MemoryError):
    """It needs more memory than the device has, or a worker."""

    code = "insufficient_memory"


class BuildError(FarfieldError, RuntimeError):
    """No compiler was found, or it refused the emitted source."""

    code = "build_error"


class BuildTimeout(BuildError):
    """Compiling took longer than `FARFIELD_COMPILE_TIMEOUT_S`."""

    code = "build_timeout"


class DeviceError(BuildError):
    """The device asked for is not there, or failed.

    Args:
        is_lost: whether this process can no longer use it.
    """

    code = "device_error"

    def __init__(
        self, message: str, *, field: str | None = None, limit: int | None = None, is_lost: bool = False
    ) -> None:
        super().__init__(message, field=field, limit=limit)
        self.is_lost = is_lost


class CompilerMissingWarning(UserWarning):
    """No C++ compiler was found: formulas run on NumPy, with the same results. Given once per process."""


def error_classes(root: type[FarfieldError] = FarfieldError) -> dict[str, type[FarfieldError]]:
    """Code -> class, for `root` and everything below it."""
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= error_classes(child)
    return found
