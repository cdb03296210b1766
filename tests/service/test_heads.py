"""Heads that are kept: found only where every byte is the same, and never one that parsers might end elsewhere."""

from __future__ import annotations

import pytest

from farfield_service.heads import KEPT_BYTES, KEPT_HEADS, Head, Heads

PATH = "/v1/reduce"
HEAD = b"POST /v1/reduce HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\n"


def said(path: str = PATH, length: int | None = 3, *, is_awaited: bool = False) -> Head:
    """What a parser finds."""
    return Head({"path": path}, length, keep_alive=True, is_awaited=is_awaited)


def kept(text: bytes, head: Head) -> Heads:
    """Heads of which one came, with three bytes of a body."""
    heads, data = Heads({PATH}), bytearray(text + b"abc")
    heads.keep(data, len(data), head)
    return heads


def test_a_head_is_found_by_its_bytes_wherever_its_body_ends() -> None:
    """Not while it is incomplete, nor with another byte."""
    head = said()
    heads = kept(HEAD, head)
    for body in (b"", b"xyz", b"xyz and the next"):
        assert heads.find(bytearray(HEAD + body + b"older bytes"), len(HEAD + body)) == (head, len(HEAD))
    assert heads.find(bytearray(HEAD), len(HEAD) - 1) is None
    assert heads.find(bytearray(HEAD.replace(b"3", b"4")), len(HEAD)) is None


@pytest.mark.parametrize(
    "text",
    [
        b"\r\n\r\n" + HEAD,  # empty lines, which parsers skip
        b"\r\n" + HEAD,
        b"POST /v1/reduce HTTP/1.1\nContent-Length: 3\n\nPOST /\r\n\r\n",  # a head that ends sooner for some
        HEAD.replace(b"localhost", b"local\rhost"),
        HEAD[:-2],  # one that has not come in full
        HEAD.replace(b"Host", b"A: " + b"a" * KEPT_BYTES + b"\r\nHost"),
    ],
)
def test_odd_heads_are_not_kept(text: bytes) -> None:
    """Whatever the parser made of them."""
    assert not kept(text, said()).known.entries
    assert kept(HEAD, said()).known.entries


@pytest.mark.parametrize("head", [said("/metrics"), said(length=None), said(is_awaited=True)])
def test_only_heads_of_plain_calls_are_kept(head: Head) -> None:
    """Of the paths that compute, whose body has a length and whose sender waits for no word."""
    assert not kept(HEAD, head).known.entries


def test_no_more_than_so_many_are_kept() -> None:
    """With one more, that goes which was used longest ago."""
    heads = Heads({PATH})

    def numbered(number: int) -> bytearray:
        return bytearray(HEAD.replace(b"localhost", b"%d" % number))

    for number in range(KEPT_HEADS + 1):
        heads.keep(numbered(number), len(numbered(number)), said())
        assert heads.find(numbered(0), len(numbered(0)))
    assert len(heads.known.entries) == KEPT_HEADS
    assert not heads.find(numbered(1), len(numbered(1)))
