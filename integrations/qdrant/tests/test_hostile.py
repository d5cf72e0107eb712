"""A folder from someone who means harm, or whose disk is failing, with good files among the bad ones."""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import zlib
from pathlib import Path

import av
import numpy as np
import pypdfium2
import pytest
from PIL import Image, PngImagePlugin

from tte_retriever.errors import MEDIA_REASONS

CONFTEST = Path(__file__).with_name("conftest.py")
MEMORY_BOUND = 1024**3
"""Most that any process of the run may use, in bytes; the largest picture that is allowed takes 192 MB."""

RUN = """
    import json, resource, runpy, sys
    from pathlib import Path
    from tte_retriever.cli import loading
    from tte_retriever.cli.main import main
    from tte_retriever_qdrant.ingestion import pipeline
    loading.load_encoder = lambda name: runpy.run_path(sys.argv[3])["StandInEncoder"]()
    pipeline.ingest.__kwdefaults__["time_limit_s"] = 5.0
    try:
        main(["index", sys.argv[1], "--store", sys.argv[2], "--json", *sys.argv[4:]])
    finally:
        # Not getrusage for this process: on Linux its peak is inherited from the one that started it.
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        own, decoders = int(status["VmHWM"].split()[0]), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        print(json.dumps({"event": "memory", "bytes": max(own, decoders) * 1024}))
"""


def picture(format, size=(64, 48), **options):
    noise = np.random.default_rng(len(format)).integers(0, 255, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format, **options)
    return buffer.getvalue()


def clip(format, codec="libx264"):
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=format) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(40):
            frame = np.random.default_rng(i).integers(0, 255, (48, 64, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def sound_only():
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_bomb(width, height):
    """A one-bit picture that says it is huge, and is: all zeros compress to nothing."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    rows = zlib.compress(bytes((width // 8 + 2) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def text_bomb():
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "a" * 80_000_000, zip=True)
    return picture("PNG", pnginfo=info)


def endless_gif():
    pictures = [Image.new("P", (1000, 1000), colour) for colour in (1, 2)]
    buffer, dot = io.BytesIO(), io.BytesIO()
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=10)
    Image.new("P", (1, 1), 1).save(dot, "GIF")
    frame = b"\x21\xf9\x04\x08\x01\x00\x00\x00" + dot.getvalue()[dot.getvalue().index(b"\x2c") : -1]
    return buffer.getvalue()[:-1] + frame * 60_000 + b"\x3b"


def document(pages=1):
    made = [Image.new("RGB", (50, 70), (90, 10 * i, 0)) for i in range(pages)]
    buffer = io.BytesIO()
    made[0].save(buffer, "PDF", save_all=True, append_images=made[1:])
    return buffer.getvalue()


def pdf_without_pages():
    buffer = io.BytesIO()
    pypdfium2.PdfDocument.new().save(buffer)
    return buffer.getvalue()


def good_files():
    formats = {"png": "PNG", "jpg": "JPEG", "gif": "GIF", "webp": "WEBP", "bmp": "BMP", "tiff": "TIFF", "avif": "AVIF"}
    formats |= {"jp2": "JPEG2000", "ppm": "PPM"}
    files = {f"good.{suffix}": picture(format) for suffix, format in formats.items()}
    files |= {"good.mp4": clip("mp4"), "good.mkv": clip("matroska"), "good.pdf": document(2)}
    return files | {"good.txt": b"all is well", "good.md": "# schön".encode()}


def bad_files(address):
    bad = {}
    for name, content in good_files().items():
        suffix = name.partition(".")[2]
        bad[f"empty.{suffix}"] = b""
        bad[f"page.{suffix}"] = b"<html>not found</html>" if suffix not in ("txt", "md") else b"\xff\xfe\0\x80" * 9
        if suffix not in ("txt", "md"):
            bad[f"half.{suffix}"] = content[: len(content) // 2]
            bad[f"head.{suffix}"] = content[:40]
    bad |= {"noise.png": picture("PNG")[:16] + bytes(range(256)) * 9, "noise.jpg": b"\xff\xd8\xff\xe0" + b"\xff" * 999}
    flipped = bytearray(picture("PNG"))
    flipped[len(flipped) // 2] ^= 0xFF
    bad["flipped.png"] = bytes(flipped)
    jpeg = bytearray(picture("JPEG"))
    sizes = jpeg.index(b"\xff\xc0") + 5
    jpeg[sizes : sizes + 4] = b"\xff\xff\xff\xff"
    bad["claims.jpg"] = bytes(jpeg)
    bad |= {"bomb.png": png_bomb(13_500, 13_500), "large.png": png_bomb(11_000, 11_000), "ztxt.png": text_bomb()}
    bad["endless.gif"] = endless_gif()
    link = f"http://{address}/secret.png"
    bad["drawing.svg"] = f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{link}"/></svg>'.encode()
    bad["script.png"] = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"
    bad["phone.jpg"] = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99)
    bad["layers.png"] = b"8BPS\0\1" + bytes(99)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://{address}/x.ts\n#EXT-X-ENDLIST\n".encode()
    bad |= {"list.mp4": playlist, "list.m3u8.mp4": b"#EXTM3U\nfile:///etc/passwd\n"}
    bad["concat.mp4"] = f"ffconcat version 1.0\nfile 'http://{address}/x.mp4'\n".encode()
    bad["dash.mp4"] = f'<?xml version="1.0"?><MPD><BaseURL>http://{address}/</BaseURL></MPD>'.encode()
    bad |= {"sound.mp4": sound_only(), "noise.mp4": clip("mp4")[:32] + bytes(range(256)) * 20}
    bad |= {"none.pdf": pdf_without_pages(), "noise.pdf": b"%PDF-1.7\n" + bytes(range(256)) * 9}
    bad |= {"deep.pdf": b"%PDF-1.7\n1 0 obj\n" + b"[" * 200_000, "white.txt": b" \n" * 99, "latin.md": b"caf\xe9" * 9}
    return bad | {"huge.txt": b"a b " * (5 * 1024**2)}


@pytest.fixture
def listener():
    """A server that only counts who comes."""
    visitors = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def count():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                visitors.append(connection)
                connection.close()

        threading.Thread(target=count, daemon=True).start()
        yield "{}:{}".format(*server.getsockname()), visitors


@pytest.mark.slow
def test_a_hostile_folder(tmp_path, listener):
    address, visitors = listener
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir(), outside.mkdir()
    good, bad = good_files(), bad_files(address)
    for name, content in (good | bad).items():
        (folder / name).write_bytes(content)
    (outside / "secret.txt").write_text("secret")
    (folder / "secret.txt").symlink_to(outside / "secret.txt")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.png")
    (folder / "directory.png").mkdir()
    assert len(bad) >= 60

    arguments = [str(folder), f"edge://{tmp_path}/store", str(CONFTEST)]
    command = [sys.executable, "-c", textwrap.dedent(RUN), *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    *events, report, memory = map(json.loads, result.stdout.splitlines())
    failed = {failure["uri"].partition("#")[0]: failure["reason"] for failure in report["failed"]}
    assert set(failed) == set(bad)
    assert set(failed.values()) <= set(MEDIA_REASONS)
    assert {event["uri"] for event in events if event["event"] == "written"} == set(good)
    assert visitors == []
    assert result.stderr == ""
    assert memory["bytes"] < MEMORY_BOUND

    (listed,) = (tmp_path / "store").glob("generations/*/quarantine.jsonl")
    quarantine = [json.loads(line) for line in listed.read_text().splitlines()]
    assert {entry["uri"].partition("#")[0] for entry in quarantine} == set(failed)
    assert all(entry["message"] and entry["reason"] for entry in quarantine)
    again = subprocess.run([*command, "--max-failures", str(len(failed) - 1)], capture_output=True, text=True)
    assert again.returncode == 1
    assert "quarantine.jsonl" in again.stderr
