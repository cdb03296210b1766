"""The key file: what is kept, who may read it, how it is followed, and that writers lose no key of another."""

from __future__ import annotations

import hmac
import json
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from farfield_service.keys import (
    RELOAD_S,
    Keys,
    KeysError,
    User,
    create_key,
    default_path,
    read_keys,
    revoke_key,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A key file that is not there yet."""
    return tmp_path / "new" / "folder" / "keys.json"


def key_id(key: str) -> str:
    """The id of a key."""
    return key.split("_")[1]


def later() -> None:
    """When a lookup asks again whether the file has changed."""
    time.sleep(RELOAD_S + 0.05)


def test_a_key_finds_its_user(path: Path) -> None:
    """With scopes, weight and limit of its own, or with the defaults."""
    full = create_key(path, "alice@lab", ["metrics", "compute", "compute"], 2.5, 7)
    plain = create_key(path, "bob")
    keys = Keys(path)
    assert keys.find(full) == User("alice@lab", frozenset({"compute", "metrics"}), 2.5, 7)
    assert keys.find(plain) == User("bob", frozenset({"compute"}), 1.0, None)
    assert len(keys) == 2


def test_nothing_else_finds_a_user(path: Path) -> None:
    """A key with one letter more, less or another; one's id with another's secret; ids and digests alone."""
    one, other = create_key(path, "alice"), create_key(path, "bob")
    secret, digest = one.split("_", 2)[2], read_keys(path)[0].digest
    keys = Keys(path)
    wrong = [
        "",
        "_",
        "ff",
        "ff__",
        one[:-1],
        one + "x",
        one.swapcase(),
        one[1:],
        f" {one}",
        f"ff_{key_id(other)}_{secret}",
        f"ff_00000000_{secret}",
        f"ff__{secret}",
        f"ff_{key_id(one)}",
        f"ff_{key_id(one)}_",
        f"ff_{key_id(one)}_{digest}",
        f"xx_{key_id(one)}_{secret}",
        secret,
        "\u00e9",
        "x" * 100_000,
    ]
    assert [text for text in wrong if keys.find(text)] == []


def test_digests_are_compared_in_constant_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the library's comparison, of whole digests, and also where there is no such key: time tells of none."""
    compared: list[tuple[str, str]] = []

    def compare(one: str, other: str) -> bool:
        compared.append((one, other))
        return compare_digest(one, other)

    key = create_key(path, "alice")
    keys, compare_digest = Keys(path), hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", compare)
    asked = [key, key[:-1] + ("a" if key[-1] != "a" else "b"), "ff_0123456789ab_" + key.split("_", 2)[2], "", "x"]
    found = [keys.find(text) is not None for text in asked]
    assert found == [True, False, False, False, False]
    assert len(compared) == len(asked)
    assert {len(text) for pair in compared for text in pair} == {len(read_keys(path)[0].digest)}


def test_secrets_are_long_random_and_not_kept(path: Path) -> None:
    """256 bits each, no two alike, and neither in the file nor in what Python prints."""
    made = [create_key(path, "alice") for _ in range(5)]
    keys = Keys(path)
    secrets = {key.split("_", 2)[2] for key in made}
    assert len(secrets) == len({key_id(key) for key in made}) == 5
    assert {len(secret) for secret in secrets} == {43}  # of 6 bits each
    said = path.read_text() + repr([vars(keys), keys.by_id, keys, keys.find(made[0])])
    assert not any(secret in said for secret in secrets)


def test_a_revoked_key_is_gone_and_the_others_stay(path: Path) -> None:
    """An id that is not there is said, without repeating it: it may be a whole key."""
    one, other = create_key(path, "alice"), create_key(path, "bob")
    assert revoke_key(path, key_id(one)).user == "alice"
    keys = Keys(path)
    assert keys.find(one) is None
    assert keys.find(other)
    for word in (key_id(one), other):
        with pytest.raises(KeysError, match="has this id: 'farfield keys list") as caught:
            revoke_key(path, word)
        assert word not in str(caught.value)


def test_writers_at_the_same_time_lose_no_key(path: Path) -> None:
    """Eight threads make and revoke; what is left is what they left, and no draft lies about."""

    def work(number: int) -> str:
        revoke_key(path, key_id(create_key(path, f"gone-{number}")))
        return create_key(path, f"user-{number}")

    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(work, range(24)))
    keys = Keys(path)
    assert len(keys) == 24
    assert all(keys.find(key) for key in made)
    assert sorted(file.name for file in path.parent.iterdir()) == ["keys.json", "keys.json.lock"]


def test_a_file_is_replaced_at_once_and_stays_as_private_as_it_was(path: Path) -> None:
    """A new file is for its owner alone; a rewritten one is another file with the mode of the old."""
    create_key(path, "alice")
    before = path.stat()
    assert before.st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.chmod(0o400)
    create_key(path, "bob")
    assert path.stat().st_ino != before.st_ino
    assert path.stat().st_mode & 0o777 == 0o400


def test_a_file_that_cannot_be_replaced_stays_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full ends in one sentence; no draft is left."""
    create_key(path, "alice")
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeysError, match=r"cannot be written: No space left on device"):
        create_key(path, "bob")
    assert path.read_bytes() == before
    assert len(list(path.parent.iterdir())) == 2


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_private_file_is_taken(path: Path, mode: int) -> None:
    """Whatever its owner may do with it."""
    key = create_key(path, "alice")
    path.chmod(mode)
    assert Keys(path).find(key)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o666])
def test_a_file_that_others_may_use_is_refused(path: Path, mode: int) -> None:
    """By a server and by a writer alike, with the command that helps."""
    create_key(path, "alice")
    path.chmod(mode)
    for use in (Keys, read_keys, lambda path: create_key(path, "bob")):
        with pytest.raises(KeysError, match=rf"\(mode {mode:04o}\): chmod 600 {path}$"):
            use(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize(
    ("mode", "is_taken"), [(0o440, True), (0o400, True), (0o640, True), (0o444, False), (0o660, False)]
)
def test_a_mounted_secret_may_be_read_by_its_group(path: Path, mode: int, is_taken: bool) -> None:
    """A file of another owner is read as a member of its group, which may not write; it stays theirs."""
    create_key(path, "alice")
    os.chown(path, 12345, 12346)
    path.chmod(mode)
    if is_taken:
        create_key(path, "bob")
        assert len(Keys(path)) == 2
        assert (path.stat().st_uid, path.stat().st_gid, path.stat().st_mode & 0o777) == (12345, 12346, mode)
        return
    with pytest.raises(KeysError, match=rf"chmod 640 {path}$"):
        Keys(path)


def changed(**words: Any) -> str:
    """A file of one key, with some words of another kind."""
    key = {
        "id": "00000000",
        "user": "alice",
        "digest": "0" * 64,
        "scopes": ["compute"],
        "created": "2025-01-02T03:04:05Z",
    }
    return json.dumps({"keys": [key | words]})


def test_a_file_made_by_hand_is_read(path: Path) -> None:
    """Weight and limit may be left out."""
    path.parent.mkdir(parents=True)
    path.write_text(changed())
    path.chmod(0o600)
    assert [key.user for key in read_keys(path)] == ["alice"]


MALFORMED = [
    "",
    "x",
    "[]",
    "{}",
    "\x00",
    '{"keys": 1}',
    '{"keys": [{}]}',
    '{"keys": [], "more": 1}',
    changed()[:-1],
    changed(id="0000000"),
    changed(id="0000000_"),
    changed(user=""),
    changed(user="a\nb"),
    changed(user="alice\n"),
    changed(digest="0" * 63),
    changed(digest="\u00e9" * 64),
    changed(scopes=[]),
    changed(scopes=["root"]),
    changed(created="yesterday"),
    changed(weight=0),
    changed(weight="2"),
    changed(max_waiting=-1),
    changed(wieght=2),
    changed().replace("[{", "[{").replace("}]", "}, " + changed()[10:-2] + "]"),
]


@pytest.mark.parametrize("text", MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_file_is_refused(path: Path, text: str) -> None:
    """The message says where, and writers leave the file alone."""
    path.parent.mkdir(parents=True)
    path.write_text(text)
    path.chmod(0o600)
    for use in (Keys, lambda path: create_key(path, "bob")):
        with pytest.raises(KeysError, match=rf"^the key file {path} is malformed: "):
            use(path)
    assert path.read_text() == text


def test_what_is_no_file_is_refused(path: Path) -> None:
    """A path to nothing says how to make the file; one to a folder, or below a file, is named."""
    with pytest.raises(KeysError, match=rf"'farfield keys create NAME --scopes compute --file {path}' makes it"):
        Keys(path)
    create_key(path, "alice")
    with pytest.raises(KeysError, match="is not a file"):
        Keys(path.parent)
    with pytest.raises(KeysError, match="cannot be read: Not a directory"):
        Keys(path / "keys.json")
    with pytest.raises(KeysError, match="cannot be written: "):
        create_key(path / "keys.json", "alice")


def test_a_change_is_followed(path: Path) -> None:
    """New keys open and revoked ones do not, from the next second on."""
    old = create_key(path, "alice")
    keys = Keys(path)
    new = create_key(path, "bob")
    revoke_key(path, key_id(old))
    assert keys.find(old)  # asked at once
    later()
    assert keys.find(new)
    assert keys.find(old) is None


def test_a_swapped_link_is_followed(path: Path) -> None:
    """Kubernetes renames a link to a folder over another: the path stays, what it leads to does not."""
    one, two = path.parent / "..one" / "keys.json", path.parent / "..two" / "keys.json"
    old, new = create_key(one, "alice"), create_key(two, "bob")
    data, path = path.parent / "..data", path.parent / "keys.json"
    data.symlink_to("..one")
    path.symlink_to("..data/keys.json")
    keys = Keys(path)
    assert keys.find(old)
    (path.parent / "..data_tmp").symlink_to("..two")
    (path.parent / "..data_tmp").rename(data)
    later()
    assert keys.find(new)
    assert keys.find(old) is None


def test_a_writer_keeps_a_link(path: Path, tmp_path: Path) -> None:
    """What the link leads to is rewritten."""
    create_key(path, "alice")
    link = tmp_path / "keys.json"
    link.symlink_to(path)
    create_key(link, "bob")
    assert link.is_symlink()
    assert len(read_keys(path)) == 2


def test_a_file_that_can_no_longer_be_used_keeps_the_keys_and_is_logged_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Malformed, open to others, gone: one line per change, and the next good file is taken again."""
    caplog.set_level(logging.INFO)
    key = create_key(path, "alice")
    good = path.read_text()
    keys = Keys(path)

    def is_malformed() -> None:
        path.write_text(good[:-5])

    def is_open() -> None:
        path.write_text(good)
        path.chmod(0o644)

    for count, break_it in enumerate((is_malformed, is_open, path.unlink), 1):
        break_it()
        for _ in range(2):
            later()
            assert keys.find(key)
        errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert len(errors) == count
        assert errors[-1].endswith("; the keys read before stay valid")
    new = create_key(path, "bob")
    later()
    assert keys.find(new)
    assert keys.find(key) is None


def test_a_file_is_taken_after_the_advised_chmod(path: Path) -> None:
    """Its content and time are as before, yet it is read."""
    create_key(path, "alice")
    keys = Keys(path)
    key = create_key(path, "bob")
    path.chmod(0o644)
    later()
    assert keys.find(key) is None
    path.chmod(0o600)
    later()
    assert keys.find(key)


def test_the_default_file_is_in_the_users_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG_CONFIG_HOME moves it."""
    monkeypatch.setenv("HOME", "/home/alice")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert default_path() == Path("/home/alice/.config/farfield/keys.json")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/conf")
    assert default_path() == Path("/conf/farfield/keys.json")
