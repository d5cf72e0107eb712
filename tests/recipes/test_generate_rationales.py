"""The recipe against a real HTTP server that speaks the protocol, well and badly."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tte_retriever.small_world.files import write_mp4
from tte_retriever.training.data import read_pairs

RECIPE = Path(__file__).parents[2] / "recipes" / "generate_rationales.py"


def completion(text, reason="stop"):
    return 200, {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": reason}]}, {}


def text_of(request):
    """The text of the item that a request shows."""
    return "".join(part["text"] for part in request["messages"][0]["content"][:-1] if part["type"] == "text")


class Endpoint:
    """``reply(request, n)`` answers the n-th request about an item: status, JSON or bytes, headers."""

    def __init__(self, reply):
        self.requests, self.headers, lock, times = [], [], threading.Lock(), {}
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    endpoint.requests.append(request)
                    endpoint.headers.append((self.path, dict(self.headers)))
                    times[text_of(request)] = times.get(text_of(request), 0) + 1
                status, body, headers = reply(request, times[text_of(request)])
                body = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for key, value in ({"Content-Length": str(len(body))} | headers).items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def serve():
    started = []

    def start(reply):
        started.append(Endpoint(reply))
        return started[-1]

    yield start
    for endpoint in started:
        endpoint.server.shutdown()
        endpoint.server.server_close()


@pytest.fixture
def recipe(tmp_path):
    """``recipe(endpoint, rows, …)`` runs it in this process and returns exit code and stderr; or it returns a process."""
    media = tmp_path / "media"
    media.mkdir()

    def run(endpoint, rows=None, *options, process=False, **environment):
        source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
        if rows is not None:
            source.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        command = [RECIPE, source, out, "--media-root", media, "--endpoint", endpoint.url]
        command += ["--model", "teacher", "--backoff", "0.01", "--retries", "3", *options]
        command = list(map(str, command))
        if process:
            paths = {"PATH": "", "PYTHONPATH": str(RECIPE.parents[1]), "OMP_NUM_THREADS": "1"}
            return subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, env=paths)
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as errors:
            patch.setattr(sys, "argv", command)
            patch.delenv("OPENAI_API_KEY", raising=False)
            for name, value in environment.items():
                patch.setenv(name, value)
            try:
                runpy.run_path(str(RECIPE), run_name="__main__")
            except SystemExit as end:
                return end.code, errors.getvalue()
        return 0, errors.getvalue()

    run.media, run.out = media, tmp_path / "out.jsonl"
    run.quarantine = tmp_path / "out.jsonl.quarantine.jsonl"
    return run


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_rationales_of_text_image_video_and_chat(serve, recipe):
    Image.fromarray(np.full((300, 2000, 3), (255, 0, 0), np.uint8)).save(recipe.media / "red.png")
    write_mp4(recipe.media / "clip.mp4", np.zeros((2, 64, 64, 3), np.uint8))
    endpoint = serve(lambda request, n: completion(f"<think>hm</think>\nIt says:\n {text_of(request) or 'pixels'}. "))
    chat = [{"role": "user", "content": [{"type": "image", "image": "red.png"}, {"type": "text", "text": "what?"}]}]
    rows = [
        {"anchor": {"text": "look", "image": "red.png"}, "positive": {"video": "clip.mp4"}, "kept": [1]},
        {"anchor": chat, "positive": "red", "anchor_rationale": "mine"},
    ]
    code, errors = recipe(endpoint, rows, "--frames", "3", "--max-side", "100", OPENAI_API_KEY="k3y")
    assert code == 0, errors
    found = sorted(lines(recipe.out), key=lambda row: row.pop("generated")["line"])
    assert found[0] == rows[0] | {"anchor_rationale": "It says: look.", "positive_rationale": "It says: pixels."}
    assert found[1] == rows[1] | {"positive_rationale": "It says: red."}
    assert len(endpoint.requests) == 3  # what has a rationale keeps it
    assert all(path == "/v1/chat/completions" for path, _ in endpoint.headers)
    assert all(headers["Authorization"] == "Bearer k3y" for _, headers in endpoint.headers)
    shown = {text_of(request): request["messages"][0]["content"] for request in endpoint.requests}
    assert [part["type"] for part in shown["look"]] == ["text", "image_url", "text"]
    assert [part["type"] for part in shown[""]] == ["image_url"] * 3 + ["text"]
    url = shown["look"][1]["image_url"]["url"]
    image = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))))
    assert image.size == (100, 15)
    assert image.getpixel((50, 7))[0] > 240

    dataset = read_pairs(recipe.out, format="pairs", media_root=recipe.media)  # what it is for
    assert set(dataset["positive_rationale"]) == {"It says: pixels.", "It says: red."}


ANSWERS = {
    "no json": ((200, b"<html>busy</html>", {}), "no JSON"),
    "no choices": ((200, {"error": "?"}, {}), "malformed answer"),
    "null": (completion(None), "malformed answer"),
    "empty": (completion("<think>hm</think> \n"), "is empty"),
    "refused": (completion("I'm sorry, but I can't help with that."), "refused"),
    "list": (completion("Here:\n- red\n- blue"), "not plain sentences"),
    "control": (completion("It is red.<|im_end|>"), "not plain sentences"),
    "long": (completion("red " * 11), "11 words; at most 10"),
    "cut": (completion("It is", "length"), "cut off"),
    "too large": ((400, {"error": "context length"}, {}), "HTTP 400"),
}


def test_what_is_no_rationale_is_quarantined_and_tried_again(serve, recipe):
    good = False
    endpoint = serve(
        lambda request, n: completion("red") if good or text_of(request) == "ok" else ANSWERS[text_of(request)][0]
    )
    names = ["ok", *ANSWERS, "ok"]
    rows = [{"anchor": name, "positive": name} for name in names]
    rows += ["{", {"anchor": {"image": "gone.png"}, "positive": "ok"}, {"anchor": "ok"}]
    options = ("--columns", "anchor", "--max-words", "10")
    code, errors = recipe(endpoint, rows, *options)
    assert code == 0, errors
    assert sorted(row["generated"]["line"] for row in lines(recipe.out)) == [1, 12, 15]
    found = {row["line"]: row["reason"] for row in lines(recipe.quarantine)}
    assert sorted(found) == [*range(2, 12), 13, 14]
    for line, (_, reason) in enumerate(ANSWERS.values(), 2):
        assert reason in found[line]
    assert "not JSON" in found[13]
    assert "gone.png" in found[14]

    good, before = True, len(endpoint.requests)
    assert recipe(endpoint, None, *options)[0] == 0
    assert sorted(row["generated"]["line"] for row in lines(recipe.out)) == [*range(1, 13), 15]
    assert len(endpoint.requests) == before + len(ANSWERS)


def test_rows_of_another_format_become_pairs(serve, recipe):
    Image.new("RGB", (32, 32)).save(recipe.media / "a.png")
    endpoint = serve(lambda request, n: completion(f"It says {text_of(request)}."))
    row = {"qry": "<|image_1|> what?", "qry_image_path": "a.png", "pos_text": "red\n", "neg_text": "blue"}
    code, errors = recipe(endpoint, [row], "--format", "mmeb")
    assert code == 0, errors
    found = lines(recipe.out)[0]
    assert found["anchor"] == {"image": "a.png", "text": "what?"}
    assert (found["anchor_rationale"], found["positive_rationale"]) == ("It says what?.", "It says red.")
    dataset = read_pairs(recipe.out, format="pairs", media_root=recipe.media)
    assert json.loads(dataset[0]["negative_1"]["json"]) == {"text": "blue"}


def test_a_busy_endpoint_is_asked_again(serve, recipe):
    def reply(request, n):
        trouble = [(429, b"slow down", {"Retry-After": "0"}), (503, b"", {}), (200, b"{", {"Content-Length": "99"})]
        return completion("red") if n > len(trouble) else trouble[n - 1]

    endpoint = serve(reply)
    code, errors = recipe(endpoint, [{"anchor": "a", "positive": "b"}])
    assert code == 0, errors
    assert lines(recipe.out)[0]["positive_rationale"] == "red"
    assert len(endpoint.requests) == 8


@pytest.mark.parametrize(("status", "asked"), [(401, 1), (500, 4)])
def test_a_hopeless_endpoint_ends_the_run_and_keeps_what_is_done(serve, recipe, status, asked):
    endpoint = serve(lambda request, n: completion("red") if text_of(request) == "ok" else (status, b"no", {}))
    rows = [{"anchor": "ok", "positive": "ok"}, {"anchor": "bad", "positive": "ok"}]
    code, errors = recipe(endpoint, rows, "--concurrency", "1")
    assert code == 1
    assert f"HTTP {status}: no" in errors
    assert "Traceback" not in errors
    assert [text_of(request) for request in endpoint.requests].count("bad") == asked
    assert [row["generated"]["line"] for row in lines(recipe.out)] == [1]
    assert lines(recipe.quarantine) == []


@pytest.mark.slow
def test_killed_and_run_again_nothing_is_lost_or_done_twice(serve, recipe):
    def slow(request, n):
        time.sleep(0.02)
        return completion(f"It says {text_of(request)}.")

    endpoint = serve(slow)
    rows = [{"anchor": f"a{number}", "positive": f"p{number}"} for number in range(1, 41)]
    process = recipe(endpoint, rows, "--concurrency", "2", process=True)
    deadline = time.monotonic() + 60
    while len(lines(recipe.out)) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = recipe.out.read_text().count("\n")
    assert 5 <= kept < 40
    with recipe.out.open("a") as file:
        file.write('{"anchor": "a4')  # as a power cut tears a row

    before = len(endpoint.requests)
    code, errors = recipe(endpoint, None, "--concurrency", "2")
    assert code == 0, errors
    found = lines(recipe.out)
    assert sorted(row["generated"]["line"] for row in found) == list(range(1, 41))
    for row in found:
        number = row["generated"]["line"]
        assert row["anchor_rationale"] == f"It says a{number}."
        assert row["positive_rationale"] == f"It says p{number}."
    assert len(endpoint.requests) - before == 2 * (40 - kept)

    recipe(endpoint, None)
    assert len(lines(recipe.out)) == 40
    code, errors = recipe(endpoint, [{"anchor": "other", "positive": "file"}])
    assert code == 2
    assert "line 1" in errors


def test_bad_usage(serve, recipe, tmp_path):
    endpoint = serve(lambda request, n: completion("red"))
    for options in (("--endpoint", "file:///etc"), ("--concurrency", "0")):
        code, errors = recipe(endpoint, [{"anchor": "a", "positive": "b"}], *options)
        assert code == 2
        assert re.search(r"error: .*", errors)
    (tmp_path / "out.jsonl").write_text('{"anchor": "not ours"}\n')
    code, errors = recipe(endpoint, [{"anchor": "a", "positive": "b"}])
    assert code == 2
    assert "was not written by this recipe" in errors
    assert recipe.out.read_text() == '{"anchor": "not ours"}\n'
