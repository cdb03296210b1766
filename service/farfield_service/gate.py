"""Path and headers of a request -> the user who sends it, or a refusal."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from .errors import BadRequest, Forbidden, Unauthorized
from .keys import LOCAL, SCOPES, Keys, User
from .settings import Settings

MAX_HOST = 300  # characters; names have 253 at most, and a port

COMPUTE, METRICS, ADMIN = (frozenset({scope}) for scope in SCOPES)
ANY = frozenset(SCOPES)

ACCESS: dict[str, frozenset[str] | None] = {
    "/v1/reduce": COMPUTE,
    "/v1/vjp": COMPUTE,
    "/v1/operators": ANY,
    "/v1/limits": ANY,
    "/v1/server": COMPUTE | ADMIN,
    "/metrics": METRICS,
    "/docs": ANY,
    "/openapi.json": ANY,
    "/healthz": None,
    "/readyz": None,
}
"""Path -> the scopes of which a key needs one; None is open to all. Whatever is not here needs `admin`."""


class Gate:
    """Who may come in.

    Args:
        keys: of whom; None lets everybody in who can reach the server.
    """

    def __init__(self, settings: Settings, keys: Keys | None) -> None:
        self.keys = keys
        # A page reaches a port of the machine that shows it, and needs no key there. It reaches no Unix socket.
        is_guarded = keys is None and settings.uds is None
        self.hosts = settings.allowed_host_names() | {"localhost"} if is_guarded else None

    def admit(self, path: str, headers: Mapping[str, str]) -> User | None:
        """The user; None at a path that is open to all.

        Raises:
            BadRequest: it has several hosts.
            Forbidden: another site's page sends it, or the key has no scope for this path.
            Unauthorized: there is no key, or an unknown one.
        """
        if ", " in headers.get("host", ""):
            raise BadRequest("Host is sent more than once")
        _check_origin(headers)
        if self.hosts is not None:
            _check_host(self.hosts, headers)
        needed = ACCESS.get(path, ADMIN)
        if needed is None:
            return None
        user = self._user(headers)
        if needed.isdisjoint(user.scopes):
            raise Forbidden(f"this needs a key with the scope {' or '.join(sorted(needed))}")
        return user

    def _user(self, headers: Mapping[str, str]) -> User:
        if self.keys is None:
            return LOCAL
        scheme, _, key = headers.get("authorization", "").partition(" ")
        user = self.keys.find(key.strip())
        if user is None or scheme.lower() != "bearer":
            raise Unauthorized("this server needs a key: send 'Authorization: Bearer KEY'")
        return user


def read_headers(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers by their names in lower case, as the application is given them; several alike make one list.

    So RFC 9110 has it, and so no two readers can take one of them each: a list is no key, type, length or host.
    """
    found: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _check_origin(headers: Mapping[str, str]) -> None:
    """No page of another site may use this server through the browser of somebody who can reach it."""
    origin = headers.get("origin")
    if origin is None and "sec-fetch-site" not in headers:
        return
    is_own = origin is None or origin.partition("://")[2].lower() == headers.get("host", "-").lower()
    if not is_own or headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise Forbidden("pages of other sites are not served")


def _check_host(hosts: frozenset[str], headers: Mapping[str, str]) -> None:
    """A page whose own name was made to lead to this machine looks like ours, but for that name."""
    host = headers.get("host")
    if host is None:  # which browsers always send
        return
    if not _is_known(hosts, host[:MAX_HOST]):
        raise Forbidden(
            f"Host is '{host[:80]}', which is no address nor localhost: name it in FARFIELD_ALLOWED_HOSTS"
        )


@functools.lru_cache(maxsize=256)
def _is_known(hosts: frozenset[str], host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name not in hosts:
            ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
