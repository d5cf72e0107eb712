"""Media by URL, from a real server on this machine."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tte_retriever.errors import InputError, MediaError
from tte_retriever.media import MediaLimits, typed_input

SLOW_S = 0.02


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.seen.append(self.path)
        getattr(self, "serve" + self.path.split("?")[0].replace("/", "_"), self.serve_missing)()

    def answer(self, body, status=200, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def serve_picture(self):
        self.answer(self.server.picture)

    def serve_clip(self):
        self.answer(self.server.clip)

    def serve_page(self):
        self.answer(b"<!doctype html><title>Please log in</title>")

    def serve_missing(self):
        self.answer(b"", 404)

    def serve_broken(self):
        self.answer(b"", 500)

    def serve_nothing(self):
        self.answer(b"")

    def serve_near(self):
        self.answer(b"", 302, Location="/picture")

    def serve_round(self):
        self.answer(b"", 302, Location="/round")

    def serve_far(self):
        self.answer(b"", 302, Location=self.server.elsewhere)

    def serve_cut(self):
        self.answer(self.server.picture[:20], **{"Content-Length": "5000"})

    def serve_endless(self):  # announces no length
        self.drip(lambda: b"\x89PNG" * 4096, pause_s=0.0)

    def serve_slow(self):
        self.drip(lambda: b"x", pause_s=SLOW_S)

    def serve_dripping(self):  # a header that goes on
        self.drip(lambda: b"x", pause_s=SLOW_S, headers=False)

    def serve_silent(self):
        self.server.ended.wait(60)

    def drip(self, piece, pause_s, headers=True):
        self.send_response(200)
        self.end_headers() if headers else self.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
        try:
            while not self.server.ended.wait(pause_s):
                self.wfile.write(piece())
        except OSError:
            self.server.hung_up.set()

    def log_message(self, *_):
        pass


@pytest.fixture
def serve(media):
    servers = []

    def start(certificate=None):
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        server.daemon_threads = True
        server.seen, server.ended, server.hung_up = [], threading.Event(), threading.Event()
        server.picture = media.image(Image.new("RGB", (6, 4), (200, 10, 10)))
        server.clip = media.video(10)
        server.at = f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.ended.set()
        server.shutdown()
        server.server_close()


def chat(part):
    return [{"role": "user", "content": [part]}]


def refused(url, limits, key="image"):
    with pytest.raises(MediaError) as caught:
        typed_input({key: url}, limits)
    return caught.value


def test_media_is_fetched_from_an_allowed_host_in_every_shape(serve):
    server = serve()
    limits, url = MediaLimits(url_hosts=frozenset({server.at})), f"{server.at}/picture?size=é 1"
    parts = [{"type": "image", "image": url}, {"type": "image_url", "image_url": {"url": url}}]
    images = [typed_input(chat(part), limits)["message"][0]["content"][0]["image"] for part in parts]
    images += [typed_input({"image": url}, limits)["image"], *typed_input({"image": [url, url]}, limits)["image"]]
    images += [typed_input({"image": f"{server.at}/near"}, limits)["image"]]
    assert [(image.size, image.getpixel((0, 0))) for image in images] == [((6, 4), (200, 10, 10))] * 6
    assert len(typed_input({"video": f"{server.at}/clip"}, limits)["video"].frames) >= 1
    part = {"type": "video_url", "video_url": {"url": f"{server.at}/clip"}}
    assert typed_input(chat(part), limits)["message"][0]["content"][0]["type"] == "video"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
def test_https_needs_a_certificate_that_is_trusted(serve, tmp_path, monkeypatch):
    pem = str(tmp_path / "server.pem")
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*make.split(), "-keyout", pem, "-out", f"{pem}.crt"], check=True, capture_output=True)
    Path(pem).write_text(Path(pem).read_text() + Path(f"{pem}.crt").read_text())
    server = serve(certificate=pem)
    limits = MediaLimits(url_hosts=frozenset({server.at}))
    error = refused(f"{server.at}/picture", limits)
    assert (error.reason, "certificate" in str(error)) == ("unreadable", True)
    assert server.seen == []
    monkeypatch.setenv("SSL_CERT_FILE", f"{pem}.crt")
    assert typed_input({"image": f"{server.at}/picture"}, limits)["image"].size == (6, 4)
    assert "max_url_seconds" in str(refused(f"{server.at}/slow", replace(limits, max_url_seconds=10 * SLOW_S)))


def test_a_bare_string_stays_text_even_from_an_allowed_host(serve):
    server = serve()
    url = f"{server.at}/picture"
    limits = MediaLimits(url_hosts=frozenset({server.at}))
    assert typed_input(url, limits) == typed_input({"text": url}, limits) == {"text": url}
    assert server.seen == []


@pytest.mark.parametrize(
    ("path", "reason", "said"),
    [
        ("/missing", "missing", "404"),
        ("/broken", "unreadable", "500"),
        ("/nothing", "empty", "0 bytes"),
        ("/page", "unsupported", "content: text"),
        ("/clip", "unsupported", "as a video"),
        ("/cut", "unreadable", "bytes early"),
        ("/round", "unreadable", "redirects"),
    ],
)
def test_responses_without_an_image_are_refused_by_name(serve, path, reason, said):
    server = serve()
    error = refused(server.at + path, MediaLimits(url_hosts=frozenset({server.at})))
    assert (error.reason, path in str(error), said in str(error)) == (reason, True, True)


@pytest.mark.parametrize("allowed", [set(), {"example.com"}, {"127.0.0.1"}, {"http://127.0.0.1:1"}])
def test_other_hosts_schemes_and_ports_are_not_contacted(serve, allowed):
    server = serve()
    assert refused(f"{server.at}/picture", MediaLimits(url_hosts=frozenset(allowed))).reason == "not-allowed"
    assert server.seen == []


def test_a_redirect_to_another_host_is_not_followed(serve):
    server, other = serve(), serve()
    server.elsewhere = f"{other.at}/picture"
    limits = MediaLimits(url_hosts=frozenset({server.at}))
    assert refused(f"{server.at}/far", limits).reason == "not-allowed"
    assert (server.seen, other.seen) == (["/far"], [])
    for elsewhere in ("file:///etc/passwd", "https://user@127.0.0.1@example.com/", "ftp://127.0.0.1/"):
        server.elsewhere = elsewhere
        assert refused(f"{server.at}/far", limits).reason == "not-allowed"
    server.elsewhere = "http://[/"
    assert refused(f"{server.at}/far", limits).reason == "unreadable"
    both = MediaLimits(url_hosts=frozenset({server.at, other.at}))
    server.elsewhere = f"{other.at}/picture"
    assert typed_input({"image": f"{server.at}/far"}, both)["image"].size == (6, 4)


def test_a_name_that_resolves_to_this_machine_is_refused(serve, monkeypatch):
    """As in a DNS rebinding attack: the host is allowed, and its address is this machine."""
    server = serve()
    look_up = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: look_up("127.0.0.1", *rest, **more))
    at = f"http://pictures.example:{server.server_port}"
    error = refused(f"{at}/picture", MediaLimits(url_hosts=frozenset({at})))
    assert (error.reason, "127.0.0.1" in str(error)) == ("not-allowed", True)
    assert server.seen == []


@pytest.mark.parametrize("path", ["/endless", "/picture"])
def test_a_body_that_is_too_large_is_not_read_to_its_end(serve, path):
    server = serve()
    error = refused(server.at + path, MediaLimits(max_bytes=60, url_hosts=frozenset({server.at})))
    assert (error.reason, "max_bytes" in str(error)) == ("too-large", True)
    assert path == "/picture" or server.hung_up.wait(10)


@pytest.mark.parametrize("path", ["/slow", "/silent", "/dripping"])
def test_downloads_time_out(serve, path):
    server = serve()
    limits = MediaLimits(max_url_seconds=10 * SLOW_S, url_hosts=frozenset({server.at}))
    error = refused(server.at + path, limits)
    assert (error.reason, "max_url_seconds" in str(error)) == ("unreadable", True)


def test_a_server_that_is_not_there_is_unreadable(serve):
    server = serve()
    server.shutdown()
    server.server_close()
    assert refused(f"{server.at}/picture", MediaLimits(url_hosts=frozenset({server.at}))).reason == "unreadable"


@pytest.mark.parametrize(
    "hosts", ["example.com", {""}, {"https://"}, {"ftp://example.com"}, {"example.com/pictures"}, {3}, {"http://a:b"}]
)
def test_invalid_hosts_are_refused(hosts):
    with pytest.raises(InputError, match=r"example\.com"):
        MediaLimits(url_hosts=hosts)


def test_tensors_and_frames_with_times(media):
    import torch

    pixels = np.random.default_rng(0).integers(0, 255, (4, 6, 8, 3), np.uint8)
    tensor = torch.tensor(pixels).permute(0, 3, 1, 2)

    def same(video):
        frames = typed_input(video)["video"].frames
        return np.array_equal(np.stack([np.asarray(frame) for frame in frames]), pixels)

    assert same(tensor)
    assert same({"video": tensor})
    assert same({"video": list(tensor)})
    assert same({"video": {"array": tensor, "video_metadata": None}})
    image = typed_input({"image": (tensor[0] / 255).to(torch.float32)})["image"]
    assert np.array_equal(np.asarray(image), pixels[0])
    metadata = {"fps": 4.0, "frames_indices": [0, 2, 4, 7], "total_num_frames": 8}
    timed = typed_input({"video": {"array": pixels, "video_metadata": metadata}})["video"]
    assert (timed.timestamps_s, timed.end_s) == ((0.0, 0.5, 1.0, 1.75), 2.0)
    longer = {"video": {"array": pixels, "video_metadata": {**metadata, "total_num_frames": 20}}}
    assert typed_input(longer)["video"].end_s == 5.0
    for wrong in (
        {"fps": 0},
        {"fps": "x"},
        {"fps": 1, "frames_indices": [0]},
        {"fps": 1, "frames_indices": [3, 2, 1, 0]},
        {"fps": 1, "total_num_frames": "x"},
    ):
        with pytest.raises(InputError, match="one ascending index"):
            typed_input({"video": {"array": pixels, "video_metadata": wrong}})
    with pytest.raises(InputError, match="the keys are"):
        typed_input({"video": {"frames": pixels}})
