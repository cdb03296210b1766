"""A server's answer -> the class that a caller catches."""

from __future__ import annotations

import pytest

import farfield.errors
from farfield.errors import (
    ArgumentError,
    BuildError,
    BusyError,
    DeadlineError,
    DeviceError,
    DtypeError,
    FarfieldError,
    ForbiddenError,
    FormulaError,
    LimitError,
    QuarantinedError,
    QuotaError,
    ServerError,
    ShapeError,
    UnauthorizedError,
    from_problem,
)
from farfield_service.errors import ANSWERS

# Code of an answer -> class.
CLASSES: dict[str, type[FarfieldError]] = {
    "formula_error": FormulaError,
    "argument_error": ArgumentError,
    "dtype_error": DtypeError,
    "shape_error": ShapeError,
    "limit_exceeded": LimitError,
    "build_error": BuildError,
    "build_timeout": BuildError,
    "device_error": DeviceError,
    "error": ServerError,
    "service_error": ServerError,
    "bad_request": ServerError,
    "unauthorized": UnauthorizedError,
    "not_found": ServerError,
    "method_not_allowed": ServerError,
    "length_required": ServerError,
    "receive_timeout": ServerError,
    "client_left": ServerError,
    "unsupported_media_type": ServerError,
    "quota_exceeded": QuotaError,
    "server_busy": BusyError,
    "draining": BusyError,
    "no_worker": BusyError,
    "worker_died": ServerError,
    "job_timeout": DeadlineError,
    "deadline_exceeded": DeadlineError,
    "internal_error": ServerError,
    "forbidden": ForbiddenError,
    "insufficient_memory": LimitError,
    "headers_too_large": LimitError,
    "quarantined": QuarantinedError,
}

# Class -> what else a caller may catch it as.
ALSO = [
    (FormulaError, ValueError),
    (ArgumentError, ValueError),
    (DtypeError, TypeError),
    (DtypeError, ArgumentError),
    (ShapeError, ArgumentError),
    (DeviceError, BuildError),
    (farfield.errors.ConnectError, ConnectionError),
    (DeadlineError, TimeoutError),
    (QuotaError, BusyError),
]


@pytest.mark.parametrize("code", sorted({*ANSWERS, *CLASSES}))
def test_every_code_of_the_server_has_its_class(code: str) -> None:
    """Exactly the tabled class, whatever other packages of Farfield are imported; the code stays readable."""
    error = from_problem({"code": code, "message": "why"})
    assert type(error) is CLASSES[code]
    assert (error.code, error.message) == (code, "why")


def test_a_code_that_this_client_does_not_know_is_a_server_error() -> None:
    """A newer server does not break an older client."""
    error = from_problem({"code": "gpu_on_fire", "message": "why", "colour": "red"})
    assert type(error) is ServerError
    assert error.code == "gpu_on_fire"


def test_the_fields_of_a_problem_arrive() -> None:
    """Place and text for the caret, limit, id and when to try again."""
    formula = from_problem(
        {"code": "formula_error", "message": "no such name", "text": "x+q", "position": 2, "field": "formula"}
    )
    assert isinstance(formula, FormulaError)
    assert (formula.text, formula.position, formula.field) == ("x+q", 2, "formula")
    assert str(formula).splitlines()[1:] == ["    x+q", "      ^"]
    limit = from_problem({"code": "limit_exceeded", "message": "why", "limit": 7, "field": "body"})
    assert (limit.limit, limit.field) == (7, "body")
    busy = from_problem({"code": "draining", "message": "why", "retry_after_s": 5.0, "request_id": "abc"})
    assert isinstance(busy, BusyError)
    assert (busy.retry_after_s, busy.request_id) == (5.0, "abc")
    assert str(busy) == "why (request abc)"


def test_a_problem_without_anything_is_still_an_error() -> None:
    """Missing fields have defaults."""
    error = from_problem({})
    assert type(error) is ServerError
    assert (error.code, error.message) == ("server_error", "no message")


@pytest.mark.parametrize(("kind", "also"), ALSO)
def test_errors_are_of_wider_kinds_too(kind: type[FarfieldError], also: type[Exception]) -> None:
    """Who catches ValueError or TimeoutError catches ours; who waits for a busy server waits for a quota."""
    assert issubclass(kind, also)
    assert issubclass(kind, FarfieldError)


def test_every_error_is_drawn_in_the_module() -> None:
    """The tree in the docstring has all classes."""
    for name in farfield.errors.__all__:
        if name != "from_problem":
            assert name in (farfield.errors.__doc__ or "").split(), name
