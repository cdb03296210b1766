"""Settings: each is documented, bounded, and read from flags and environment."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import ValidationError

from farfield_service.cli import main
from farfield_service.settings import Settings

# Setting -> (texts out of bounds or of another kind, a text just within).
BOUNDS: dict[str, tuple[tuple[str, ...], str]] = {
    "port": (("-1", "65536", "http", ""), "65535"),
    "device": (("gpu", "CPU", ""), "cpu"),
    "require_keys": (("maybe", "2", ""), "True"),
    "arena_bytes": (("0", str(4 * 2**20 - 1), "1e9", "64 MiB"), str(4 * 2**20)),
    "max_arena_per_user": (("0", "1.01", "half"), "1"),
    "max_body_bytes": (("0", "-1", "x"), "1"),
    "max_result_bytes": (("0", "-1", "x"), "1"),
    "max_pairs": (("0", "-1", "x"), "1"),
    "max_queue": (("0", "-1", "1.5"), "1"),
    "max_queue_per_user": (("0", "-1", "1.5"), "1"),
    "max_wait_s": (("0", "-1", "soon"), "0.001"),
    "workers": (("0", "65", "x"), "64"),
    "worker_memory_bytes": (("-1", "x"), "0"),
    "device_memory_bytes": (("-1", "x"), "0"),
    "part_s": (("0", "-1", "soon"), "0.001"),
    "divide_s": (("0", "-1", "soon"), "0.001"),
    "grace_s": (("-0.1", "soon"), "0"),
    "max_connections": (("0", "many"), "1"),
    "max_connections_per_address": (("0", "many"), "1"),
    "max_head_bytes": (("1023", "x"), "1024"),
    "head_timeout_s": (("0", "-1", "soon"), "0.001"),
    "keep_alive_s": (("0", "-1", "soon"), "0.001"),
    "fast_bodies": (("perhaps",), "False"),
    "receive_timeout_s": (("0", "-1", "soon"), "0.001"),
    "job_timeout_s": (("0", "-1", "soon"), "0.001"),
    "worker_start_timeout_s": (("0", "-1", "soon"), "0.001"),
    "drain_s": (("-0.1", "soon"), "0"),
    "log_level": (("loud", "INFO"), "debug"),
    "log_format": (("xml", "JSON", ""), "json"),
}
FREE_TEXT = {"host", "uds", "keys_file", "allowed_hosts", "tls_certificate", "tls_key"}

LOCAL = ["127.0.0.1", "127.9.9.9", "::1", "localhost"]
REACHABLE = ["0.0.0.0", "::", "192.168.1.2", "example.org", ""]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_says_what_it_is(name: str) -> None:
    """Each field has a description, and a row in the table of bounds unless it is free text."""
    assert len(Settings.model_fields[name].description or "") > 15
    assert (name in BOUNDS) != (name in FREE_TEXT)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_a_flag(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`serve --help` lists each flag with its description."""
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    flag = f"--{name.replace('_', '-')} "
    assert flag in printed
    assert " ".join((Settings.model_fields[name].description or "").split()) in printed


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, (bad, _) in BOUNDS.items() for text in bad])
def test_a_value_out_of_bounds_names_flag_and_variable(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command ends with 1 and one sentence, from flag and from environment."""
    flag = "--" + name.replace("_", "-")
    assert main(["serve", f"{flag}={text}"]) == 1
    monkeypatch.setenv(f"FARFIELD_{name.upper()}", text)
    assert main(["serve"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith(f"farfield: {flag} (FARFIELD_{name.upper()}): ")
        assert f"got '{text}'" in line


@pytest.mark.parametrize(("name", "text"), [(name, good) for name, (_, good) in BOUNDS.items()])
def test_a_value_just_within_bounds_is_taken_from_the_environment(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The valid neighbour of each row above."""
    monkeypatch.setenv(f"FARFIELD_{name.upper()}", text)
    assert str(getattr(Settings(), name)).removesuffix(".0") == text


def test_a_given_value_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags are given values."""
    monkeypatch.setenv("FARFIELD_MAX_QUEUE", "3")
    assert Settings().max_queue == 3
    assert Settings(max_queue=4).max_queue == 4


def test_settings_cannot_be_changed() -> None:
    """What a server was started with is what it runs with."""
    settings = Settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "names"),
    [(None, set()), ("", set()), (" , ,", set()), ("a", {"a"}), (" A.lab , b,", {"a.lab", "b"})],
)
def test_allowed_hosts_are_separated_by_commas(
    text: str | None, names: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Empty parts, blanks around names and their case do not count."""
    if text is not None:
        monkeypatch.setenv("FARFIELD_ALLOWED_HOSTS", text)
    assert Settings().allowed_host_names() == names


@pytest.mark.parametrize("name", ["uds", "keys_file", "allowed_hosts"])
def test_a_path_of_no_letters_is_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable takes back what an image has set."""
    monkeypatch.setenv(f"FARFIELD_{name.upper()}", "")
    assert getattr(Settings(), name) is None


@pytest.mark.parametrize("host", LOCAL + REACHABLE)
def test_only_loopback_and_unix_sockets_are_local(host: str) -> None:
    """Everything else may be reached from other machines."""
    settings: Any = {"host": host}
    assert Settings(**settings).is_local() == (host in LOCAL)
    assert Settings(**settings, uds="/run/farfield.sock").is_local()


def test_quantities_carry_their_unit() -> None:
    """The name of a number says what it counts."""
    numbers = [name for name, field in Settings.model_fields.items() if field.annotation in (int, float)]
    plain = [
        name
        for name in numbers
        if not re.search(r"(_bytes|_s|_pairs|_queue|_connections|_per_address|_per_user|workers)$", name)
    ]
    assert plain == ["port"]
