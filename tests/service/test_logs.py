"""What a server writes down: lines as text or JSON, of all its programs, and never a key, data or a formula."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from farfield_kernels.operation import Spec
from farfield_service.keys import create_key
from farfield_service.logs import spec_hash
from farfield_service.wire import FRAME
from serving import GAUSSIAN, Server, frame, gaussian_arrays, serving

VJP = Spec(GAUSSIAN.formula, GAUSSIAN.variables, wrt=((0,),))


def lines(server: Server) -> list[dict[str, Any]]:
    """The log of a server that writes JSON."""
    return [json.loads(line) for line in server.log.read_text().splitlines()]


def post(server: Server, path: str, body: bytes, key: str | None) -> str:
    """The id of a request, whatever its answer."""
    headers = {"Content-Type": FRAME} | ({"Authorization": f"Bearer {key}"} if key else {})
    return server.request("POST", path, body, headers).headers["x-request-id"]


def three_requests(server: Server, key: str) -> tuple[str, str, str]:
    """Ids of a vjp that is computed, of one without a key, and of one with too few arguments."""
    arrays = gaussian_arrays()
    body = frame(VJP, [*arrays, np.ones((7, 2))])
    return (
        post(server, "/v1/vjp", body, key),
        post(server, "/v1/reduce", body, None),
        post(server, "/v1/reduce", frame(GAUSSIAN, arrays[:2]), key),
    )


@pytest.mark.parametrize("log_level", ["info", "debug"])
def test_json_lines_name_requests_of_all_programs_and_no_secret(tmp_path: Path, log_level: str) -> None:
    """Every line is one object; computed and refused requests have one each; no key, no formula."""
    key = create_key(tmp_path / "keys.json", "ada", ["compute"])
    flags = ["--keys-file", str(tmp_path / "keys.json"), "--log-format", "json", "--log-level", log_level]
    with serving(tmp_path, *flags, FARFIELD_CXX="no-such-compiler", FARFIELD_CPU="auto") as server:
        computed, unknown, misfit = three_requests(server, key)
    found = lines(server)
    for line in found:
        assert datetime.fromisoformat(line["time"]).utcoffset() is not None
        assert {"level", "logger", "message"} <= set(line)
    loggers = {line["logger"] for line in found}
    assert {"uvicorn.error", "farfield.pool", "farfield.access"} <= loggers
    assert "py.warnings" in loggers, "the worker warns that there is no compiler"
    [warned] = [line for line in found if line["logger"] == "py.warnings"]
    assert warned["request_id"] == computed
    answers = {line["request_id"]: line for line in found if line["logger"] == "farfield.access"}
    assert set(answers) == {computed, unknown, misfit}
    expected = {"op": "vjp", "status": 200, "reason": "ok", "user": "ada", "spec": spec_hash(VJP)}
    assert {name: answers[computed][name] for name in expected} == expected
    assert 0 < answers[computed]["seconds"] < 60
    assert (answers[unknown]["status"], answers[unknown]["reason"]) == (401, "unauthorized")
    assert not {"user", "spec"} & set(answers[unknown])
    assert (answers[misfit]["status"], answers[misfit]["user"]) == (422, "ada")
    text = server.log.read_text()
    assert key not in text
    assert key.split("_", 2)[2] not in text
    if log_level == "info":
        assert "SqDist" not in text


def test_text_lines_say_the_same_for_people(tmp_path: Path) -> None:
    """One line per answered request with op, status, reason, time, user, spec and id."""
    key = create_key(tmp_path / "keys.json", "ada", ["compute"])
    with serving(tmp_path, "--keys-file", str(tmp_path / "keys.json")) as server:
        computed, unknown, _ = three_requests(server, key)
    text = server.log.read_text()
    time, spec = r"\d+\.\d ms", spec_hash(VJP)
    assert re.search(rf"INFO farfield.access vjp 200 ok {time} user=ada spec={spec} request={computed}\n", text)
    assert re.search(rf"INFO farfield.access reduce 401 unauthorized {time} request={unknown}\n", text)
    assert text.count("farfield.access") == 3
    assert key not in text


def test_what_ends_a_program_is_one_json_line() -> None:
    """A traceback becomes a field of its line, and what the program was doing for whom is known."""
    program = (
        "from farfield_service.logs import configure, current_request\n"
        "configure('json', 'info')\n"
        "current_request.set('abc')\n"
        "1 / 0\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    line = json.loads(done.stderr)
    assert (line["level"], line["request_id"]) == ("critical", "abc")
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ZeroDivisionError: division by zero")
