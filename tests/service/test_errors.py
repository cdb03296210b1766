"""Every error of the tree has its answer, and every answer its error."""

from __future__ import annotations

import json

import msgpack
import pytest

from farfield_kernels import errors as compiler_errors
from farfield_kernels.errors import FarfieldError, FormulaError
from farfield_service import errors
from farfield_service.app import error_response
from farfield_service.errors import ANSWERS, BadRequest, ServerBusy, ServiceError, Unauthorized, problem
from farfield_service.wire import FRAME, MSGPACK


def tree(root: type[FarfieldError] = FarfieldError) -> list[type[FarfieldError]]:
    """Compiler's and service's classes; others, such as the client's, are not for a server."""
    below = [kind for child in root.__subclasses__() for kind in tree(child)]
    modules = (compiler_errors.__name__, errors.__name__)
    return [root, *below] if root.__module__ in modules else below


def test_every_error_has_one_answer_and_every_answer_an_error() -> None:
    """The codes of the tree are those of the table, each once."""
    codes = [kind.code for kind in tree()]
    assert sorted(codes) == sorted(set(codes)) == sorted(ANSWERS)


def test_every_error_is_drawn_in_its_module() -> None:
    """The trees in the docstrings have all classes."""
    for kind in tree():
        module = compiler_errors if kind.__module__ == compiler_errors.__name__ else errors
        assert kind.__name__ in (module.__doc__ or "")


@pytest.mark.parametrize("kind", [kind for kind in tree() if issubclass(kind, ServiceError)])
def test_trying_again_is_advised_where_it_may_help(kind: type[ServiceError]) -> None:
    """`retry_after_s`, `retryable` and the statuses 429 and 503 say the same."""
    answer = ANSWERS[kind.code]
    assert answer.retryable == (answer.status in (429, 503)) == (kind.retry_after_s is not None)


def test_a_problem_leaves_out_what_is_not_known() -> None:
    """Fields without a value are not sent; those with one are."""
    assert problem(BadRequest("why"), "7") == {"code": "bad_request", "message": "why", "request_id": "7"}
    assert problem(ServerBusy("full", limit=3), "7") == {
        "code": "server_busy",
        "message": "full",
        "limit": 3,
        "retry_after_s": 1.0,
        "request_id": "7",
    }
    found = problem(FormulaError("what is this", text="x ? y", position=2, field="formula"), "7")
    assert (found["text"], found["position"], found["field"]) == ("x ? y", 2, "formula")


@pytest.mark.parametrize(
    ("content_type", "accept", "is_json"),
    [
        (MSGPACK, "", False),
        (FRAME, "", False),
        (FRAME + "; v=1", "", False),
        (FRAME, "*/*", False),
        (FRAME, "application/json", True),
        ("application/json", "", True),
        ("", "", True),
    ],
)
def test_errors_answer_in_kind(content_type: str, accept: str, is_json: bool) -> None:
    """Callers that sent msgpack get the msgpack twin of problem+json, unless they accept JSON."""
    response = error_response(BadRequest("why"), "7", {"content-type": content_type, "accept": accept})
    assert response.status_code == 400
    assert response.media_type == ("application/problem+json" if is_json else "application/problem+msgpack")
    read = json.loads if is_json else msgpack.unpackb
    assert read(response.body) == {"code": "bad_request", "message": "why", "request_id": "7", "status": 400}


def test_headers_repeat_what_http_has_a_header_for() -> None:
    """Retry-After in seconds, and how to identify oneself."""
    assert error_response(ServerBusy("full"), "7", {}).headers["retry-after"] == "1"
    assert error_response(ServerBusy("full", retry_after_s=42.0), "7", {}).headers["retry-after"] == "42"
    assert error_response(Unauthorized("who"), "7", {}).headers["www-authenticate"] == "Bearer"
    assert "retry-after" not in error_response(BadRequest("why"), "7", {}).headers
