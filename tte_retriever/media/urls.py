"""Fetch media over HTTP, only from the hosts in ``MediaLimits.url_hosts``."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from tte_retriever.errors import MediaError
from tte_retriever.media.origins import origin_of, parse_origin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tte_retriever.errors import MediaReason
    from tte_retriever.media.limits import MediaLimits
    from tte_retriever.media.origins import Origin

_MAX_REDIRECTS = 5
_CHUNK_BYTES = 1 << 20
_REDIRECTS = (301, 302, 303, 307, 308)
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "tte-retriever"}


def is_url(value: object) -> bool:
    """Whether a value is a ``str`` that starts with ``http://`` or ``https://``."""
    return isinstance(value, str) and value.lower().startswith(("https://", "http://"))


def fetch(url: str, limits: MediaLimits) -> bytes:
    """Download a URL under limits. Redirects are followed only to allowed hosts.

    No proxy is used and no credentials are sent. An allowed name that resolves to a private address is refused, unless
    the allowed host is that address itself or ``localhost``.

    Args:
        url: An ``https`` URL, or an ``http`` URL whose origin is allowed.
        limits: ``url_hosts``, ``max_url_seconds`` and ``max_bytes`` apply.

    Raises:
        MediaError: ``not-allowed``, ``missing`` (404, 410), ``unreadable`` (any other failure) or ``too-large``.
    """
    allowed = {parse_origin(host) for host in limits.url_hosts}
    deadline = time.monotonic() + limits.max_url_seconds
    current = url
    for _ in range(_MAX_REDIRECTS + 1):
        answer = _request(current, _allowed_parts(current, allowed, limits), limits, deadline)
        if isinstance(answer, bytes):
            return answer
        current = answer
    raise MediaError(f"{url!r} redirects more than {_MAX_REDIRECTS} times; give the final address", "unreadable")


def _request(url: str, parts: SplitResult, limits: MediaLimits, deadline: float) -> bytes | str:
    """Return the body behind a URL, or the URL that it redirects to."""
    _, host, port = origin_of(parts)
    connection_class = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = connection_class(host, port, timeout=max(deadline - time.monotonic(), 0.001))
    expired = threading.Event()
    try:
        connection.connect()
        _check_peer(connection.sock, host, url)
        with _closed_at(deadline, connection.sock, expired):
            connection.request("GET", _target(parts), headers=_HEADERS)
            with connection.getresponse() as response:  # it keeps the socket open unless closed itself
                location = response.headers.get("Location", "")
                redirected = response.status in _REDIRECTS
                answer = urljoin(url, location) if redirected else _body(response, url, limits)
        if expired.is_set():  # a connection that was shut down looks like the end of the body
            raise TimeoutError
        return answer
    except Exception as error:
        if expired.is_set() or isinstance(error, TimeoutError):
            message = f"{url!r} took longer than {limits.max_url_seconds} s (MediaLimits.max_url_seconds)"
            raise MediaError(f"{message}; try again, or raise the limit", "unreadable") from error
        if isinstance(error, MediaError) or not isinstance(error, (OSError, HTTPException, ValueError)):
            raise
        raise MediaError(f"{url!r} cannot be fetched: {error or type(error).__name__}", "unreadable") from error
    finally:
        connection.close()


@contextmanager
def _closed_at(deadline: float, sock: socket.socket, expired: threading.Event) -> Iterator[None]:
    """Shut a connection down at a deadline: the timeout of a socket starts again with every byte that arrives."""

    def shut_down() -> None:
        expired.set()
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(deadline - time.monotonic(), shut_down)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _allowed_parts(url: str, allowed: set[Origin], limits: MediaLimits) -> SplitResult:
    try:
        parts = urlsplit(url)
        origin = origin_of(parts)
    except ValueError as error:
        raise MediaError(f"{url!r} is not a valid URL: {error}", "not-allowed") from error
    if origin not in allowed:
        message = f"{url!r} is not fetched; the allowed hosts are {', '.join(sorted(limits.url_hosts))}"
        raise MediaError(f"{message} (MediaLimits.url_hosts)", "not-allowed")
    return parts


def _target(parts: SplitResult) -> str:
    safe = "/%:@!$&'()*+,;=~?"
    path = quote(parts.path or "/", safe=safe)
    return f"{path}?{quote(parts.query, safe=safe)}" if parts.query else path


def _check_peer(sock: socket.socket, host: str, url: str) -> None:
    """Check the address that was connected to: a name may resolve to another one at every lookup."""
    address = ipaddress.ip_address(sock.getpeername()[0].partition("%")[0])
    if not address.is_global and host != "localhost" and not _is_address(host):
        message = f"{url!r} leads to the private address {address}"
        raise MediaError(f"{message}; to allow it, name that address in MediaLimits.url_hosts", "not-allowed")


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
    while len(body) + (response.length or 0) <= limits.max_bytes and (chunk := response.read(_CHUNK_BYTES)):
        body += chunk
    if len(body) + (response.length or 0) > limits.max_bytes:
        message = f"{url!r} has more than {limits.max_bytes} bytes (MediaLimits.max_bytes); give a smaller file"
        raise MediaError(message, "too-large")
    if response.length:
        raise MediaError(f"{url!r} ended {response.length} bytes early; try again", "unreadable")
    return bytes(body)
