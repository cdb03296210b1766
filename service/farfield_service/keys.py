"""The key file -> the users of a server. Keys are made, revoked and looked up here.

A key is `ff_<id>_<secret>`; whoever makes it sees it once. The file keeps its id, its user and the SHA-256 digest
of its secret. A plain hash is right: slow ones protect words that people choose; nobody guesses 256 random bits.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import logging
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, get_args

import msgspec
from msgspec import Meta

from .settings import Settings

Scope: TypeAlias = Literal["compute", "metrics", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

SECRET_BYTES = 32
ID_BYTES = 4
RELOAD_S = 1.0  # how often a lookup asks whether the file has changed
NO_DIGEST = "0" * 64  # compared with where there is no such key, so that time does not tell which ids there are

log = logging.getLogger("farfield.keys")


class KeysError(Exception):
    """The key file cannot be used as asked; the message says what to do."""


@dataclass(frozen=True)
class User:
    """Who sends a request.

    Args:
        name: the same for all keys of one person.
        scopes: what the key in use is good for.
        weight: this user's share of the device relative to others'.
        max_waiting: requests of this user that may wait; None leaves it to the server's limit.
    """

    name: str
    scopes: frozenset[str]
    weight: float = 1.0
    max_waiting: int | None = None


LOCAL = User("local", frozenset(SCOPES))
"""Everybody, where a server has no keys."""


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One key as the file holds it, without its secret."""

    id: Annotated[str, Meta(pattern=rf"\A[0-9a-f]{{{2 * ID_BYTES}}}\Z")]
    user: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._@-]{0,63}\Z")]
    digest: Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1)]
    created: datetime
    weight: Annotated[float, Meta(gt=0, le=1000)] = 1.0
    max_waiting: Annotated[int, Meta(ge=1)] | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    keys: list[Key]


class Keys:
    """The keys of a file; they are read again when it changes, and stay valid if it can no longer be read.

    Args:
        path: the file; where it is a symbolic link, the file that it leads to now.

    Raises:
        KeysError: the file cannot be read, is malformed, or may be read by others.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checked_at = time.monotonic()
        self.seen = _signature(path)
        self.failed: tuple[object, str] | None = None
        self.by_id = {key.id: key for key in read_keys(path)}

    def __len__(self) -> int:
        return len(self.by_id)

    def find(self, text: str) -> User | None:
        """The user of a key, or None if the file does not have it."""
        self._follow()
        prefix, _, rest = text.partition("_")
        key_id, _, secret = rest.partition("_")
        key = self.by_id.get(key_id) if prefix == "ff" else None
        matches = hmac.compare_digest(_digest(secret), key.digest if key else NO_DIGEST)
        if key is None or not matches:
            return None
        return User(key.user, frozenset(key.scopes), key.weight, key.max_waiting)

    def _follow(self) -> None:
        """Read the file again if it is another than before; what is wrong with it is logged once."""
        now = time.monotonic()
        if now - self.checked_at < RELOAD_S:
            return
        self.checked_at = now
        seen = _signature(self.path)  # before the content: a change in between is seen the next time
        if seen == self.seen:
            return
        try:
            self.by_id = {key.id: key for key in read_keys(self.path)}
        except KeysError as error:
            failed = (seen, str(error))
            if failed != self.failed:
                log.error("%s; the keys read before stay valid", error)
            self.failed = failed
        else:
            self.seen, self.failed = seen, None
            log.info("%d keys read from %s", len(self), self.path)


def open_keys(settings: Settings) -> Keys | None:
    """The keys that a server of these settings asks for; None where everybody who can reach it is served.

    Raises:
        KeysError: the file cannot be used, or there are no keys where others could come in.
    """
    keys = Keys(Path(settings.keys_file).expanduser()) if settings.keys_file else None
    if not keys and not settings.is_local():
        raise KeysError(
            f"listening on {settings.host} lets others in and there are no keys: make one with 'farfield keys "
            f"create NAME --scopes compute', start with --keys-file {settings.keys_file or default_path()}, "
            "or listen on 127.0.0.1"
        )
    if not keys and settings.require_keys:
        raise KeysError(
            "keys are required and there are none: make one with 'farfield keys create NAME --scopes compute' "
            f"and start with --keys-file {settings.keys_file or default_path()}"
        )
    return keys


def default_path() -> Path:
    """The key file of `farfield keys` where nothing else is said."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config", "farfield", "keys.json").expanduser()


def read_keys(path: Path) -> list[Key]:
    """All keys of a file.

    Raises:
        KeysError: it cannot be read, is malformed, or may be read by others.
    """
    try:
        _check_access(path, path.stat())
        keys = msgspec.json.decode(path.read_bytes(), type=_File).keys
    except FileNotFoundError:
        raise KeysError(
            f"there is no key file {path}: 'farfield keys create NAME --scopes compute --file {path}' makes it"
        ) from None
    except OSError as error:
        raise KeysError(f"the key file {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise KeysError(f"the key file {path} is malformed: {error}") from None
    if len({key.id for key in keys}) < len(keys):
        raise KeysError(f"the key file {path} is malformed: two keys have the same id")
    return keys


def create_key(
    path: Path,
    user: str,
    scopes: Iterable[str] = ("compute",),
    weight: float = 1.0,
    max_waiting: int | None = None,
) -> str:
    """Add a key to a file, which is made if it is not there; returns the key itself, which is kept nowhere.

    Raises:
        KeysError: the file cannot be written, or one of the words is out of bounds.
    """
    key_id, secret = secrets.token_hex(ID_BYTES), secrets.token_urlsafe(SECRET_BYTES)
    words = {
        "id": key_id,
        "user": user,
        "digest": _digest(secret),
        "scopes": sorted(set(scopes)),
        "created": datetime.now(UTC).replace(microsecond=0),
        "weight": weight,
        "max_waiting": max_waiting,
    }
    if unknown := set(scopes) - set(SCOPES):
        raise KeysError(f"there is no scope '{min(unknown)}': there are {', '.join(SCOPES)}")
    try:
        key = msgspec.convert(words, Key)
    except msgspec.ValidationError as error:
        raise KeysError(f"such a key cannot be: {error}") from None
    with _rewritten(path) as keys:
        keys.append(key)
    return f"ff_{key_id}_{secret}"


def revoke_key(path: Path, key_id: str) -> Key:
    """Take a key out of a file.

    Raises:
        KeysError: the file cannot be written, or has no key of this id.
    """
    with _rewritten(path) as keys:
        found = [key for key in keys if key.id == key_id]
        if not found:  # the word is not repeated: it may be a whole key
            raise KeysError(f"no key of {path} has this id: 'farfield keys list --file {path}' shows the ids")
        keys.remove(found[0])
    return found[0]


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _check_access(path: Path, status: os.stat_result) -> None:
    """Nobody but the server may read the file, nor write it.

    A file of another owner, as Kubernetes mounts a secret, is one that the server can read only as a member of its
    group: there the group may read.
    """
    if not stat.S_ISREG(status.st_mode):
        raise KeysError(f"the key file {path} is not a file")
    is_ours = status.st_uid == os.geteuid()
    if status.st_mode & (0o077 if is_ours else 0o037):
        raise KeysError(
            f"the key file {path} is open to others (mode {stat.S_IMODE(status.st_mode):04o}): "
            f"chmod {600 if is_ours else 640} {path}"
        )


@contextlib.contextmanager
def _rewritten(path: Path) -> Iterator[list[Key]]:
    """The keys of a file, to be changed; they are written at the end, and other writers wait until then."""
    path = path.resolve()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(f"{path}.lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = read_keys(path) if path.exists() else []
            yield keys
            _write(path, keys)
    except OSError as error:
        raise KeysError(f"the key file {path} cannot be written: {error.strerror}") from None


def _write(path: Path, keys: list[Key]) -> None:
    """Put a new file in the place of the old one at once; mode and owner stay, and are 0600 and ours at first."""
    text = msgspec.json.format(msgspec.json.encode(_File(keys)), indent=2) + b"\n"
    descriptor, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            if path.exists():
                status = path.stat()
                os.fchown(descriptor, status.st_uid, status.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
