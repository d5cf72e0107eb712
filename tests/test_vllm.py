"""vLLM serves our folders with the vectors of ``TTEEncoder``.

It is opt-in, because vLLM wants a torch of its own: ``TTE_VLLM_PYTHON=/path/to/bin/python pytest -m slow tests/test_vllm.py``
with an interpreter that has vLLM. ``docs/serving.md`` says how one is made for processors without a GPU.
"""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from tte_retriever import TTEEncoder, build

VLLM_PYTHON = os.environ.get("TTE_VLLM_PYTHON")
FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")  # Qwen3.5 needs a GPU in vLLM 0.32
THINK_TOKENS = 4
START_S = 400
PIXELS = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(VLLM_PYTHON is None, reason="TTE_VLLM_PYTHON names no Python with vLLM"),
]


def image_part():
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    return {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"},
    }


def text_part(text):
    return {"type": "text", "text": text}


PICTURE = Image.fromarray(PIXELS)
CASES = {
    "text": ([text_part("a red circle")], "a red circle"),
    "long text": ([text_part("a red circle " * 20)], "a red circle " * 20),
    "image": ([image_part()], {"image": PICTURE}),
    "image, then text": ([image_part(), text_part("what?")], {"image": PICTURE, "text": "what?"}),
    "text, then image": ([text_part("what?"), image_part()], {"text": "what?", "image": PICTURE}),
}
"""By name, the content of a request, and the same item for ``encode``."""


@pytest.fixture(scope="module", params=FAMILIES)
def served(request, checkpoint, tmp_path_factory):
    """The encoder of a build, and the address of a vLLM that serves the same folder."""
    scratch = tmp_path_factory.mktemp("vllm")
    backbone = checkpoint(request.param, head_dim=32)  # vLLM takes 32 and multiples on a processor
    folder = build(scratch / "model", backbone=backbone, method="tte-flash", think_tokens=THINK_TOKENS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [VLLM_PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", "model", "--runner", "pooling", "--dtype", "float32", "--enforce-eager"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", "512"]
    usual = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    options = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    with (scratch / "log").open("w") as log:
        server = subprocess.Popen(command, env=usual | options, cwd=scratch, stdout=log, stderr=subprocess.STDOUT)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(address, server, scratch / "log")
        yield TTEEncoder(str(folder), device="cpu"), address
    finally:
        server.terminate()
        server.wait(60)


def wait_for(address, server, log):
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5)
            return
        except OSError:
            time.sleep(1)
    pytest.fail(f"vLLM did not start:\n{log.read_text()[-4000:]}")


def ask(address, **request):
    """The vector of one request to ``/v1/embeddings``."""
    body = json.dumps({"model": "model", "encoding_format": "float", **request}).encode()
    header = {"Content-Type": "application/json"}
    with urllib.request.urlopen(
        urllib.request.Request(f"{address}/v1/embeddings", body, header), timeout=60
    ) as answer:
        return np.array(json.load(answer)["data"][0]["embedding"])


def cosine(one, other):
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_the_vectors_are_those_of_the_encoder(served):
    encoder, address = served
    cosines = {}
    for name, (content, item) in CASES.items():
        for budget in range(THINK_TOKENS + 1):
            own = encoder.encode([item], think_budget=budget)[0]
            messages = [{"role": "user", "content": content}]
            given = ask(address, messages=messages, chat_template_kwargs={"think_budget": budget})
            cosines[name, budget] = cosine(given, own)
    instruction = {"role": "system", "content": "Find the picture."}
    messages = [instruction, {"role": "user", "content": CASES["image"][0]}]
    own = encoder.encode([CASES["image"][1]], prompt="Find the picture.")[0]
    cosines["with an instruction", None] = cosine(ask(address, messages=messages), own)
    assert min(cosines.values()) >= 0.99999, cosines


def test_a_request_that_ends_in_an_assistant_turn_is_refused(served):
    _, address = served
    messages = [{"role": "user", "content": "a red circle"}, {"role": "assistant", "content": ""}]
    options = {"add_generation_prompt": False, "continue_final_message": True, "add_special_tokens": True}
    with pytest.raises(urllib.error.HTTPError, match="400") as refused:
        ask(address, messages=messages, **options)
    assert "assistant turn" in refused.value.read().decode()


def test_requests_that_are_answered_wrongly_in_silence_are_those_of_the_documentation(served):
    """Where one of them is refused or right in a later vLLM, ``docs/serving.md`` changes."""
    encoder, address = served
    own = encoder.encode(["a red circle"])[0]
    user = {"role": "user", "content": "a red circle"}
    wrong = {
        "input": ask(address, input="a red circle"),
        "budget on the message": ask(address, messages=[{**user, "think_budget": 0}]),
        "truncated": ask(address, messages=[user], truncate_prompt_tokens=12),
    }
    assert cosine(wrong["input"], own) < 0.999
    assert cosine(wrong["budget on the message"], own) >= 0.99999  # all think tokens are used
    assert cosine(wrong["truncated"], own) < 0.999
