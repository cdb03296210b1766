"""connect: which addresses are taken, what the environment says, and whose turn it is to be the default."""

from __future__ import annotations

import gc
import math
import weakref

import pytest

import farfield
from farfield import ArgumentError
from farfield.session import SCHEMES, default_session
from farfield.transport import Http, Local

# URL -> (host, port, path of the socket, path before /v1).
GOOD = {
    "http://gpu:8642": ("gpu", 8642, None, ""),
    "http://gpu": ("gpu", 80, None, ""),
    "https://gpu": ("gpu", 443, None, ""),
    "http://127.0.0.1:1/": ("127.0.0.1", 1, None, ""),
    "http://[::1]:8642": ("::1", 8642, None, ""),
    "https://lab.example.org/farfield/": ("lab.example.org", 443, None, "/farfield"),
    "http+unix:///run/farfield.sock": ("localhost", 80, "/run/farfield.sock", ""),
    "http+unix:///run/my%20farfield.sock": ("localhost", 80, "/run/my farfield.sock", ""),
}

BAD = [
    "gpu:8642",
    "gpu",
    "ftp://gpu",
    "HTTP//gpu",
    "http:gpu",
    "http://",
    "http://:8642",
    "https://",
    "http://gpu:port",
    "http://gpu:99999",
    "http://gpu:-1",
    "http://[::1",
    "http://gpu/a b",
    "http://gpu/?key=1",
    "http://gpu/#here",
    "http://user:secret@gpu",
    "http+unix://",
    "http+unix:///",
    "http+unix://run/farfield.sock",
    "unix:///run/farfield.sock",
    "local",
    "local:gpu",
    "local:cpu:0",
    " ",
]


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins without a default session and without Farfield's variables, and leaves what was there."""
    for name in ("FARFIELD_URL", "FARFIELD_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("farfield.session._default", None)


@pytest.mark.parametrize("url", GOOD)
def test_a_server_is_named_by_its_url(url: str) -> None:
    """Host, port, socket and path are read; nothing is sent."""
    session = farfield.connect(url)
    transport = session.transport
    assert isinstance(transport, Http)
    assert (transport.host, transport.port, transport.socket_path, transport.base) == GOOD[url]
    assert session.url == url
    assert repr(session) == f"Session({url!r})"


@pytest.mark.parametrize(("url", "device"), [("local:", "auto"), ("local:cpu", "cpu"), ("local:cuda", "cuda")])
def test_local_is_this_process(url: str, device: str) -> None:
    """The embedded engine, with the device that the URL names."""
    transport = farfield.connect(url).transport
    assert isinstance(transport, Local)
    assert (transport.device, transport.url) == (device, url)


@pytest.mark.parametrize("url", BAD)
def test_an_address_that_cannot_be_used_is_an_argument_error(url: str) -> None:
    """The message has the URL, but no password of it, and what is allowed; the default session stays."""
    before = farfield.connect("local:")
    with pytest.raises(ArgumentError) as caught:
        farfield.connect(url)
    assert caught.value.field == "url"
    assert SCHEMES in str(caught.value)
    assert "secret" not in str(caught.value)
    assert default_session() is before


@pytest.mark.parametrize("timeout_s", [0, -1, math.nan, math.inf, 1e300])
def test_a_timeout_is_a_positive_number_of_seconds(timeout_s: float) -> None:
    """Others are refused by name; small and large ones are taken."""
    with pytest.raises(ArgumentError, match="timeout_s"):
        farfield.connect("http://gpu", timeout_s=timeout_s)
    for good in (0.001, 1, 86_400):
        farfield.connect("http://gpu", timeout_s=good)


def test_a_token_that_no_header_can_carry_is_refused() -> None:
    """Line breaks and letters beyond ASCII; the message does not repeat the token."""
    for token in ("a\r\nb", "sésame", "tab\t"):
        with pytest.raises(ArgumentError) as caught:
            farfield.connect("http://gpu", token)
        assert caught.value.field == "token"
        assert token not in str(caught.value)
    assert "sesame" not in repr(farfield.connect("http://gpu", "sesame"))


def test_the_environment_says_where_and_with_which_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """FARFIELD_URL and FARFIELD_TOKEN are used where nothing is given, and not otherwise."""
    assert isinstance(default_session().transport, Local)
    monkeypatch.setenv("FARFIELD_URL", "http://gpu:1")
    monkeypatch.setenv("FARFIELD_TOKEN", "sesame")
    transport = farfield.connect().transport
    assert isinstance(transport, Http)
    assert (transport.url, transport.headers["Authorization"]) == ("http://gpu:1", "Bearer sesame")
    given = farfield.connect("http://other", "mellon").transport
    assert isinstance(given, Http)
    assert (given.url, given.headers["Authorization"]) == ("http://other", "Bearer mellon")
    monkeypatch.delenv("FARFIELD_TOKEN")
    bare = farfield.connect().transport
    assert isinstance(bare, Http)
    assert "Authorization" not in bare.headers


def test_a_bad_url_in_the_environment_is_named_at_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable's text is in the message."""
    monkeypatch.setenv("FARFIELD_URL", "gpu:8642")
    with pytest.raises(ArgumentError, match="gpu:8642"):
        default_session()


def test_the_last_connect_is_the_default() -> None:
    """Until the next one."""
    one = farfield.connect("local:")
    assert default_session() is one
    other = farfield.connect("local:cpu")
    assert default_session() is other


def test_a_with_block_ends_with_the_default_of_before() -> None:
    """Also nested, also with an error inside, also with a session made earlier."""
    before = farfield.connect("local:")
    with farfield.connect("http://gpu") as outer:
        assert default_session() is outer
        with farfield.connect("http://other") as inner:
            assert default_session() is inner
        assert default_session() is outer
    assert default_session() is before
    with pytest.raises(ZeroDivisionError), outer:
        raise ZeroDivisionError
    assert default_session() is before


def test_a_with_block_with_nothing_before_ends_with_nothing() -> None:
    """The environment decides again."""
    with farfield.connect("http://gpu"):
        pass
    assert default_session().url == "local:"


def test_sessions_that_were_replaced_are_not_kept() -> None:
    """A thousand connects hold on to no more than the last session and the one before."""
    made = [weakref.ref(farfield.connect("local:")) for _ in range(5)]
    gc.collect()
    assert [reference() is not None for reference in made] == [False, False, False, True, True]
