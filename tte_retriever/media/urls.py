"""Fetch media from hosts that the limits name, and from nowhere else."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from tte_retriever.errors import InputError, MediaError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tte_retriever.errors import MediaReason
    from tte_retriever.media.limits import MediaLimits

_MAX_REDIRECTS = 5
_CHUNK = 1 << 20
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "tte-retriever"}
_PORTS = {"https": 443, "http": 80}
_Origin = tuple[str, str, int]


def is_url(value: object) -> bool:
    """Whether a value is a ``str`` that starts as a web address does."""
    return isinstance(value, str) and value.lower().startswith(("https://", "http://"))


def check_host(entry: object) -> None:
    """Raise ``InputError`` unless an entry of ``MediaLimits.url_hosts`` is a host or an origin."""
    try:
        parts = urlsplit(_spelt_out(entry)) if isinstance(entry, str) else None
        good = parts is not None and parts.scheme in _PORTS and bool(_origin(parts)[1])
    except ValueError:
        good = False
    if not good or parts is None or parts.path or parts.query or "@" in parts.netloc:
        raise InputError(
            f"MediaLimits.url_hosts holds {entry!r}; give hosts such as 'example.com', or origins such as "
            "'http://127.0.0.1:8000'"
        )


def fetch(url: str, limits: MediaLimits) -> bytes:
    """Fetch a URL, under the limits, following redirects only to hosts that are allowed themselves.

    No proxy is used and no credentials are sent. An allowed name that leads to a private address is refused, unless what
    is allowed is that address (or ``localhost``) itself.

    Args:
        url: ``https``, or ``http`` where the origin is allowed so.
        limits: ``url_hosts``, ``max_url_seconds`` and ``max_bytes`` hold.

    Raises:
        MediaError: ``not-allowed``, ``missing`` (404, 410), ``unreadable`` (any other failure) or ``too-large``.
    """
    allowed = {_origin(urlsplit(_spelt_out(host))) for host in limits.url_hosts}
    deadline = time.monotonic() + limits.max_url_seconds
    at = url
    for _ in range(_MAX_REDIRECTS + 1):
        answer = _ask(at, _allowed_parts(at, allowed, limits), limits, deadline)
        if isinstance(answer, bytes):
            return answer
        at = answer
    raise MediaError(f"{url!r} redirects more than {_MAX_REDIRECTS} times; give the final address", "unreadable")


def _ask(url: str, parts: SplitResult, limits: MediaLimits, deadline: float) -> bytes | str:
    """What is at a URL, or the URL that it redirects to."""
    _, host, port = _origin(parts)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(host, port, timeout=max(deadline - time.monotonic(), 0.001))
    late = threading.Event()
    try:
        connection.connect()
        _check_peer(connection.sock, host, url)
        with _hung_up(connection.sock, deadline, late):
            connection.request("GET", _target(parts), headers=_HEADERS)
            with connection.getresponse() as response:  # it keeps the socket open unless closed itself
                redirected = response.status in _REDIRECTS
                answer = (
                    urljoin(url, response.headers.get("Location", "")) if redirected else _body(response, url, limits)
                )
        if late.is_set():  # what was cut off looks like an end
            raise TimeoutError
        return answer
    except Exception as error:
        if late.is_set() or isinstance(error, TimeoutError):
            message = f"{url!r} was not there after {limits.max_url_seconds} s"
            raise MediaError(
                f"{message}, the most that is waited (MediaLimits.max_url_seconds)", "unreadable"
            ) from error
        if isinstance(error, MediaError) or not isinstance(error, (OSError, HTTPException, ValueError)):
            raise
        raise MediaError(f"{url!r} cannot be fetched: {error or type(error).__name__}", "unreadable") from error
    finally:
        connection.close()


@contextmanager
def _hung_up(sock: socket.socket, deadline: float, late: threading.Event) -> Iterator[None]:
    """Hang up at the deadline: a timeout of the socket begins anew with every byte that drips in."""

    def hang_up() -> None:
        late.set()
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(deadline - time.monotonic(), hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _spelt_out(host: str) -> str:
    return host if "://" in host else f"https://{host}"


def _origin(parts: SplitResult) -> _Origin:
    return parts.scheme, (parts.hostname or "").rstrip("."), parts.port or _PORTS.get(parts.scheme, 0)


def _allowed_parts(url: str, allowed: set[_Origin], limits: MediaLimits) -> SplitResult:
    try:
        parts = urlsplit(url)
        origin = _origin(parts)
    except ValueError as error:
        raise MediaError(f"{url!r} is no URL: {error}", "not-allowed") from error
    if origin not in allowed:
        hosts = ", ".join(sorted(limits.url_hosts))
        raise MediaError(f"{url!r} is not fetched; only {hosts} may be (MediaLimits.url_hosts)", "not-allowed")
    return parts


def _target(parts: SplitResult) -> str:
    safe = "/%:@!$&'()*+,;=~?"
    path = quote(parts.path or "/", safe=safe)
    return f"{path}?{quote(parts.query, safe=safe)}" if parts.query else path


def _check_peer(sock: socket.socket, host: str, url: str) -> None:
    """Look at who answers: a name may lead anywhere, and elsewhere the next time it is looked up."""
    address = ipaddress.ip_address(sock.getpeername()[0].partition("%")[0])
    if not address.is_global and host != "localhost" and not _is_address(host):
        raise MediaError(f"{url!r} leads to {address}, which is no public address; allow that itself", "not-allowed")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _body(response: HTTPResponse, url: str, limits: MediaLimits) -> bytes:
    if response.status != 200:
        reason: MediaReason = "missing" if response.status in (404, 410) else "unreadable"
        raise MediaError(f"{url!r} answers {response.status} {response.reason}; check the address", reason)
    body = bytearray()
    while len(body) + (response.length or 0) <= limits.max_bytes and (chunk := response.read(_CHUNK)):
        body += chunk
    if len(body) + (response.length or 0) > limits.max_bytes:
        message = f"{url!r} has more than {limits.max_bytes} bytes, the most that are opened (MediaLimits.max_bytes)"
        raise MediaError(message, "too-large")
    if response.length:
        raise MediaError(f"{url!r} ended {response.length} bytes early; try again", "unreadable")
    return bytes(body)
