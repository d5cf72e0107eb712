"""Fixtures of every test of the repository: offline, on one thread.

This file is at the root because ``integrations/*/tests`` are outside ``tests/``.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Before anything imports torch or a hub client, because they read these once; sub-processes inherit them.
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",  # torch takes its number of threads from this one
    MKL_NUM_THREADS="1",
)

pytest_plugins = ["tests.shared"]

_ATTEMPTS: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--record-golden``, which writes tests/golden."""
    parser.addoption(
        "--record-golden", action="store_true", help="write the golden vectors instead of comparing with them"
    )


class NetworkBlockedError(OSError):
    """A test tried to reach another machine."""


def _is_local(address: Any) -> bool:
    """Whether an address of ``socket.connect`` stays on this machine; a path is a Unix socket."""
    if not isinstance(address, tuple):
        return True
    host = address[0]
    if isinstance(host, bytes):
        host = host.decode(errors="replace")
    if host in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _guarded(name: str, original: Callable[..., Any], address_of: Callable[..., Any]) -> Callable[..., Any]:
    def guard(*args: Any, **kwargs: Any) -> Any:
        address = address_of(*args, **kwargs)
        if not _is_local(address):
            _ATTEMPTS.append(f"{name}({address!r})")
            raise NetworkBlockedError(f"{_ATTEMPTS[-1]}: tests are offline and may reach only this machine")
        return original(*args, **kwargs)

    return guard


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Refuse connections and name look-ups beyond this machine, for fixtures of every scope."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            original = getattr(socket.socket, name)
            patch.setattr(socket.socket, name, _guarded(name, original, lambda _self, address: address))
        # The address is the last argument of sendto, after optional flags.
        patch.setattr(socket.socket, "sendto", _guarded("sendto", socket.socket.sendto, lambda *args: args[-1]))
        patch.setattr(
            socket, "getaddrinfo", _guarded("getaddrinfo", socket.getaddrinfo, lambda host, *_args, **_kw: (host,))
        )
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_flush() -> Iterator[None]:
    """Leave writing to the disk to the system: tests kill processes and never cut the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True)
def network_attempts() -> Iterator[list[str]]:
    """Fail the test that tried to leave this machine, even when the code under test swallowed the error."""
    _ATTEMPTS.clear()
    yield _ATTEMPTS
    if _ATTEMPTS:
        pytest.fail(f"the test tried to use the network: {', '.join(_ATTEMPTS)}. Tests are offline; use local files.")
