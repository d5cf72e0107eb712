"""A collection on a Qdrant server, by URL."""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlsplit

import grpc
import httpx
from qdrant_client import QdrantClient
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from tte_retriever.errors import InputError
from tte_retriever_qdrant.errors import StoreError, StoreNotFound, StoreUnauthorized, StoreUnavailable
from tte_retriever_qdrant.stores.client import ClientStore
from tte_retriever_qdrant.stores.connection import Connection

HTTP_FORM = "http(s)://host:6333/collection for a Qdrant server, with ?grpc=6334 to write and search by gRPC"

TIMEOUT_S = 60
"""Seconds to wait for the answer to a request."""

_KEY = "QDRANT_API_KEY"
_QDRANT_PORT = 6333
_MEANS_UNAVAILABLE = {408, 425, 429, 500, 502, 503, 504}
_GRPC_AS_HTTP = {
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Address:
    """A server and a collection on it.

    Attributes:
        url: URL of its REST interface.
        collection: Name of the store.
        grpc_port: Port of its gRPC interface; ``None`` uses REST.
    """

    url: str
    collection: str
    grpc_port: int | None


def parse_address(uri: str) -> Address:
    """Read ``http(s)://host:port/collection``.

    Raises:
        InputError: It has another form.
    """
    try:
        parts = urlsplit(uri)
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        grpc_port = int(options.pop("grpc")) if "grpc" in options else None
        port = parts.port or _QDRANT_PORT
    except ValueError as error:
        raise InputError(f"the store {uri!r} cannot be read ({error}); give {HTTP_FORM}") from error
    if parts.username is not None or parts.password is not None:
        raise InputError(f"the store has a password in its URI; give the key in the environment as {_KEY}")
    prefix, _, collection = parts.path.strip("/").rpartition("/")
    if not parts.hostname or not re.fullmatch(r"[\w.-]{1,200}", collection) or options or parts.fragment:
        message = f"the store {uri!r} is not of the form {HTTP_FORM}; names have letters, digits, '.', '_' and '-'"
        raise InputError(message)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Address(f"{parts.scheme}://{host}:{port}{'/' if prefix else ''}{prefix}", collection, grpc_port)


def next_uri(uri: str) -> str:
    """The URI of the next generation of a store, for other processes than the one that began it, while it exists."""
    parts = urlsplit(uri)
    return parts._replace(path=f"{parts.path.rstrip('/')}.next").geturl()


def http_store(uri: str, *, create: bool = True) -> ClientStore:
    """Open a collection on a server; see :func:`open_store` for what it raises."""
    connection = connect(uri)
    store = ClientStore(connection, connection.name)
    if store.spec is None and not create:
        store.close()
        raise missing(connection)
    return store


def missing(connection: Connection) -> StoreNotFound:
    """The error of reading a store that does not exist."""
    return StoreNotFound(f"{connection.label} does not exist; make it with tte-retriever index, or check the URI")


def connect(uri: str) -> Connection:
    """Prepare a connection to a server; no request is made yet.

    Raises:
        InputError: The URI is of another form.
    """
    address = parse_address(uri)
    label = f"the collection {address.collection!r} on {address.url}"
    key = os.environ.get(_KEY, "").strip()
    if key and address.url.startswith("http://") and not _is_loopback(urlsplit(address.url).hostname or ""):
        _logger.warning("the key in %s goes unencrypted to %s; use https://", _KEY, address.url)
    stores = Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "tte-retriever" / "stores"
    return Connection(
        QdrantClient(
            url=address.url,
            grpc_port=address.grpc_port or 6334,
            prefer_grpc=address.grpc_port is not None,
            headers={"api-key": key} if key else None,  # api_key= would warn for loopback, too
            timeout=TIMEOUT_S,
            check_compatibility=False,  # a request whose failure is silent
        ),
        name=address.collection,
        label=label,
        data=stores / quote(address.url, safe=""),
        indexed=True,
        explain=_explain,
        release=lambda: None,
    )


def _explain(error: Exception, label: str) -> StoreError:
    status, message = _status(error)
    if status in (401, 403):
        return StoreUnauthorized(
            f"{label} refuses access ({message}); set {_KEY} in the environment to a key that allows this"
        )
    if status == 404:
        return StoreNotFound(f"{label} is gone or was replaced ({message}); open the store again")
    if status in _MEANS_UNAVAILABLE:
        return StoreUnavailable(f"{label} is not available ({message}); check that the server runs, and try again")
    return StoreError(f"{label} failed: {message}")


def _status(error: Exception) -> tuple[int | None, str]:
    """The HTTP status that an error has or corresponds to, and its message."""
    source = error.source if isinstance(error, ResponseHandlingException) else error
    if isinstance(source, UnexpectedResponse):
        message = source.content.decode(errors="replace").strip() or source.reason_phrase
        return source.status_code, f"{source.status_code}: {message[:300]}"
    if isinstance(source, ResourceExhaustedResponse):
        return 429, str(source)
    if isinstance(source, httpx.TimeoutException):
        return 504, f"no answer within {TIMEOUT_S} s"
    if isinstance(source, httpx.TransportError):
        return 503, str(source) or type(source).__name__
    if isinstance(source, grpc.RpcError) and isinstance(source, grpc.Call):
        return _GRPC_AS_HTTP.get(source.code()), f"{source.code().name}: {source.details()}"
    if isinstance(error, (ResponseHandlingException, json.JSONDecodeError)):
        return None, f"the answer is not from a Qdrant server ({type(source).__name__}); check the URI"
    return None, str(source) or type(source).__name__


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
