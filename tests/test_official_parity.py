"""An embedding model gives the vectors of its own code: Qwen3-VL-Embedding's, and a fixture of ours with the same traits.

The pack holds a stand-in of Qwen3-VL-Embedding-2B (true tokenizer, template and layout, random weights), 33 inputs, and the
vectors of the official code. It is in ``shared/`` beside the checkout, or where ``TTE_PARITY_PACK`` says. ``docs/parity.md``
explains every case that differs; what it says is run here.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize
from transformers import AutoModel, AutoProcessor

from tte_retriever import TTEEncoder, build
from tte_retriever.errors import MediaError

PACK = Path(
    os.environ.get("TTE_PARITY_PACK", Path(__file__).resolve().parents[2] / "shared" / "qwen3vl_embedding_parity")
)
SAME = (
    *("text", "text_instr", "text_zh", "text_emoji_ws", "text_1char", "text_url", "text_long_7k"),
    *("image", "image_b", "image_448", "image_tiny", "image_strip", "image_grey", "image_rgba"),
    *("image_rgba_transparent", "image_instr", "image_text", "image_text_instr", "multi_image"),
)
"""Cases that give the official vector as they are."""
PIXELS = {"shortest_edge": 4096, "longest_edge": 1800 * 32 * 32}
OUTER_PAIR = "<|vision_start|><|video_pad|><|vision_end|>"
PATTERN = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)

needs_pack = pytest.mark.skipif(not PACK.is_dir(), reason=f"no folder {PACK}; TTE_PARITY_PACK can name another")


@pytest.fixture(scope="module")
def encoder():
    return load_pack()


def load_pack():
    return TTEEncoder(str(PACK / "checkpoint"), device="cpu", model_kwargs={"dtype": "float32"})


@functools.cache
def official():
    return np.load(PACK / "reference.npz")


def given(name):
    """The item of a case, media before the text as in the official code, and the options of ``encode``."""
    case = json.loads((PACK / "cases.json").read_text())[name]
    item = {}
    for kind in ("image", "video"):
        if kind in case:
            files = case[kind]
            item[kind] = [PACK / file for file in files] if isinstance(files, list) else PACK / files
    if isinstance(case.get("text"), dict):
        text = case["text"]
        whole = text["joined_by"].join(text["repeat"].format(i=i) for i in range(text["count"]))
        item["text"] = whole[: text["cut_to"]]
    elif "text" in case:
        item["text"] = case["text"]
    return item, {"prompt": case["instruction"]} if "instruction" in case else {}


def similarity(encoder, name, item, **options):
    """Cosine to the official vector."""
    reference = official()[name]
    return float(encoder.encode([item], **options)[0] @ reference / np.linalg.norm(reference))


def official_frames(file):
    """The frames of a video as the official code takes them: 1 per second, from 4 to 64, an even number, 320 x 448 px."""
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        fps = float(stream.average_rate)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    count = int(min(max(len(frames) / fps, 4), 64)) // 2 * 2
    chosen = np.linspace(0, len(frames) - 1, count).round().astype(int)
    pixels = torch.from_numpy(np.stack([frames[index] for index in chosen])).permute(0, 3, 1, 2)  # (T, 3, H, W)
    pixels = resize(pixels, [320, 448], InterpolationMode.BICUBIC, antialias=True)
    metadata = {"fps": fps, "frames_indices": chosen.tolist(), "total_num_frames": len(frames)}
    return {"array": pixels.permute(0, 2, 3, 1).numpy(), "video_metadata": metadata}


@needs_pack
@pytest.mark.slow
def test_texts_and_images_have_the_official_vectors(encoder):
    cosines = {}
    for name in SAME:
        item, options = given(name)
        cosines[name] = similarity(encoder, name, item, **options)
    assert min(cosines.values()) >= 0.99999, cosines


@needs_pack
@pytest.mark.slow
def test_a_build_without_thought_has_the_vectors_of_its_backbone(encoder, tmp_path):
    out = build(tmp_path / "out", backbone=PACK / "checkpoint", method="tte-flash", think_tokens=2)
    built = TTEEncoder(str(out), device="cpu", model_kwargs={"dtype": "float32"})
    for name in SAME:
        item, options = given(name)
        assert similarity(built, name, item, think_budget=0, **options) >= 0.9999, name
    video = [{"video": PACK / "media/v3s.mp4"}]
    assert float(built.encode(video, think_budget=0)[0] @ encoder.encode(video)[0]) >= 0.9999


@needs_pack
@pytest.mark.slow
def test_what_differs_has_the_official_vector_in_the_way_that_is_documented():
    encoder = load_pack()
    cosines = {}

    def compare(name, item=None, **options):
        usual, own = given(name)
        before = similarity(encoder, name, usual, **own)
        cosines[name] = similarity(encoder, name, item or usual, **{**own, **options})
        assert before < 0.9999, name  # the case leaves the table when it no longer differs

    item, options = given("text_instr_nopunct")
    compare("text_instr_nopunct", prompt=f"{options['prompt']}.")
    compare("image_exif", {"image": np.asarray(Image.open(PACK / "media/exif6.jpg"))})
    item, _ = given("image_text")
    behind = {"text": item["text"], "image": item["image"]}
    assert similarity(encoder, "image_text", behind) < 0.999
    compare("text_path", {"text": "/tmp/parity/media/img_0.jpg"})  # the text that was embedded when the pack was made
    larger = load_pack()
    larger.processor.image_processor.size = PIXELS
    for name in ("image_doc", "image_mid", "image_huge"):
        item, _ = given(name)
        assert similarity(encoder, name, item) < 0.9999
        cosines[name] = similarity(larger, name, item)
    item, _ = given("text_long_28k")
    encoder.max_seq_length = 8192
    cosines["text_long_28k"] = similarity(encoder, "text_long_28k", item)
    assert min(cosines.values()) >= 0.99999, cosines


@needs_pack
@pytest.mark.slow
def test_videos_have_the_official_vector_with_the_official_frames_and_without_the_outer_pair():
    encoder = load_pack()
    frames, _ = given("video_frames_same")
    assert similarity(encoder, "video_frames_same", frames) == pytest.approx(0.999, abs=5e-4)
    encoder.processor.chat_template = encoder.processor.chat_template.replace(OUTER_PAIR, "<|video_pad|>")
    cosines = {"video_frames_same": similarity(encoder, "video_frames_same", frames)}
    for name in ("video_file_3s", "video_file_10s", "video_file_100s", "video_file_text"):
        item, _ = given(name)
        assert similarity(encoder, name, item) < 0.9999
        cosines[name] = similarity(encoder, name, {**item, "video": official_frames(item["video"])})
    assert min(cosines.values()) >= 0.99999, cosines


@needs_pack
@pytest.mark.slow
def test_what_has_no_official_vector_is_escaped_or_refused(encoder):
    item, _ = given("text_control")
    assert similarity(encoder, "text_control", item) < 0.6  # there, a text can end its turn and begin another
    item, _ = given("video_frames")
    with pytest.raises(MediaError, match="resize them to one size"):  # the official code embeds the word NULL
        encoder.encode([item])


def computed_by_hand(processor, model, content, instruction=None):
    """The official recipe in plain transformers: the state of the last token, appended by the tokenizer, normalised."""
    system = [] if instruction is None else [{"role": "system", "content": [{"type": "text", "text": instruction}]}]
    chat = [*system, {"role": "user", "content": content}]
    text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    images = [part["image"] for part in content if part["type"] == "image"] or None
    inputs = processor(text=[text], images=images, return_tensors="pt")
    assert processor.tokenizer.decode(inputs["input_ids"][0, -1]) == "<|endoftext|>"
    with torch.no_grad():
        state = model(**inputs).last_hidden_state[0, -1].numpy()
    return state / np.linalg.norm(state)


@pytest.mark.parametrize(("shards", "instruction"), [(False, None), (True, "Find the picture.")])
def test_a_fixture_with_the_same_traits_has_the_vectors_of_plain_transformers(
    embedding_model, tmp_path, shards, instruction
):
    """An appended token, DeepStack, a small vocabulary."""
    folder = embedding_model("qwen3_vl")
    if shards:
        folder = tmp_path / "shards"
        folder.mkdir()
        for file in embedding_model("qwen3_vl").rglob("*"):
            if file.is_file() and file.name != "model.safetensors":
                (folder / file.relative_to(embedding_model("qwen3_vl"))).parent.mkdir(exist_ok=True)
                (folder / file.relative_to(embedding_model("qwen3_vl"))).write_bytes(file.read_bytes())
        AutoModel.from_pretrained(embedding_model("qwen3_vl")).save_pretrained(folder, max_shard_size="50KB")
        assert not (folder / "model.safetensors").exists()
    picture = Image.fromarray(PATTERN)
    image, text = {"type": "image", "image": picture}, {"type": "text", "text": "a red circle"}
    contents = [[text], [image], [image, text], [text, image]]
    items = ["a red circle", {"image": picture}, {"image": picture, "text": "a red circle"}]
    items.append({"text": "a red circle", "image": picture})
    encoder = TTEEncoder(str(folder), device="cpu")
    assert encoder.transformer.model.config.vision_config.deepstack_visual_indexes
    vectors = encoder.encode(items, prompt=instruction)
    plain = AutoProcessor.from_pretrained(folder), AutoModel.from_pretrained(folder, dtype=torch.float32)
    for content, vector in zip(contents, vectors, strict=True):
        assert float(computed_by_hand(*plain, content, instruction) @ vector) >= 0.99999
    stock = SentenceTransformer(str(folder), device="cpu").encode(items[:2], prompt=instruction)
    assert np.abs(stock - vectors[:2]).max() < 1e-5
