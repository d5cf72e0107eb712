"""Web origins (scheme, host and port), by which ``MediaLimits.url_hosts`` allows a URL."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from tte_retriever.errors import InputError

if TYPE_CHECKING:
    from urllib.parse import SplitResult

_PORTS = {"https": 443, "http": 80}


class Origin(NamedTuple):
    """Where a URL is fetched from; two URLs of one origin are answered by one server."""

    scheme: str
    host: str
    port: int


def origin_of(parts: SplitResult) -> Origin:
    """The origin of a parsed URL. Raises ``ValueError`` if its port is not a port number."""
    return Origin(parts.scheme, (parts.hostname or "").rstrip("."), parts.port or _PORTS.get(parts.scheme, 0))


def parse_origin(entry: object) -> Origin:
    """Read an entry of ``MediaLimits.url_hosts``: an origin, or a host, which stands for its https origin.

    Raises:
        InputError: The entry is neither.
    """
    if isinstance(entry, str):
        with suppress(ValueError):
            parts = urlsplit(entry if "://" in entry else f"https://{entry}")
            origin = origin_of(parts)
            bare = not (parts.path or parts.query or "@" in parts.netloc)
            if bare and origin.host and origin.scheme in _PORTS:
                return origin
    raise InputError(
        f"MediaLimits.url_hosts holds {entry!r}; give hosts such as 'example.com', or origins such as "
        "'http://127.0.0.1:8000'"
    )
