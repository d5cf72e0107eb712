from __future__ import annotations

import os
import socket
import urllib.request
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

BEYOND = "192.0.2.1"  # reserved for documentation (RFC 5737): nobody answers there


def reach_out():
    socket.create_connection((BEYOND, 80), timeout=0.2)


def look_up():
    socket.getaddrinfo("example.org", 80)


def send_datagram():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", (BEYOND, 9))


def fetch():
    urllib.request.urlopen("http://example.org/cat.png", timeout=0.2)


@pytest.mark.parametrize("leave", [reach_out, look_up, send_datagram, fetch])
def test_nothing_leaves_this_machine(leave, network_attempts):
    with pytest.raises(OSError, match="tests are offline"):
        leave()
    assert network_attempts, "an attempt must be remembered, for code that swallows the error"
    network_attempts.clear()


def test_a_swallowed_attempt_fails_the_test(pytester):
    conftest = (Path(__file__).parents[1] / "conftest.py").read_text()
    pytester.makeconftest(conftest.replace('pytest_plugins = ["tests.shared"]', ""))  # there is no tests package
    pytester.makepyfile(
        "import socket\n"
        "def test_it():\n"
        "    try:\n"
        f"        socket.create_connection(({BEYOND!r}, 80), timeout=0.2)\n"
        "    except OSError:\n"
        "        pass\n"
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*tried to use the network*"])


def test_loopback_works():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        pass


def test_models_come_from_disk_and_use_one_thread():
    import torch

    assert os.environ["HF_HUB_OFFLINE"] == os.environ["TRANSFORMERS_OFFLINE"] == "1"
    assert torch.get_num_threads() == 1
