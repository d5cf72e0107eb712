"""A checkpoint in the layout of WeMM-Embedding in, a plain folder out, which gives the vectors of the original."""

from __future__ import annotations

import json
import re
import shutil
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from tokenizers import Regex, Tokenizer, normalizers, processors
from transformers import AutoModel, AutoProcessor, AutoTokenizer

from tte_retriever import TTEEncoder, build, hub
from tte_retriever.cli import main as command_line
from tte_retriever.errors import CheckpointError, InputError
from tte_retriever.importing import import_checkpoint
from tte_retriever.media import VideoFrames

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 64, 96, 3), np.uint8)
PICTURE = Image.fromarray(PIXELS[0])
VIDEO = VideoFrames(tuple(map(Image.fromarray, PIXELS)), (0.0, 0.5, 1.0, 1.5), 0.0, 2.0)
TEXTS = ["a red circle", "two\n\nparagraphs\n"]
ITEMS = [*TEXTS, {"image": PICTURE}, {"image": PICTURE, "text": "what?"}, {"video": VIDEO, "text": "and then?"}]
CODE = "raise SystemExit('custom code was run')\n"
EMBEDDING = 263  # its id: the first after the tokens of the backbone


@pytest.fixture(scope="module")
def original(checkpoint, tmp_path_factory):
    """``original(edit)`` is a folder in the layout of ``tencent/WeMM-Embedding-2B``; ``edit`` may change its files."""

    def make(edit=lambda folder: None):
        folder = shutil.copytree(checkpoint("qwen3_5"), tmp_path_factory.mktemp("original") / "WeMM-Embedding-2B")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.add_tokens(["<embedding>"], special_tokens=True)
        tokenizer.save_pretrained(folder)
        backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
        backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex("\n$"), "")])
        adding = processors.TemplateProcessing("$A <embedding>", special_tokens=[("<embedding>", EMBEDDING)])
        backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), adding])
        backend.save(str(folder / "tokenizer.json"))
        config = json.loads((folder / "config.json").read_text())
        config["auto_map"] = dict.fromkeys(
            ("AutoModel", "AutoModelForCausalLM"), "modeling_wemm_embedding.WeMMEmbedding"
        )
        (folder / "config.json").write_text(json.dumps(config))
        module = {"idx": 0, "name": "0", "path": "", "type": "modeling_st_wemm.WeMMTransformer"}
        (folder / "modules.json").write_text(json.dumps([module]))
        for name in ("modeling_wemm_embedding.py", "modeling_st_wemm.py"):
            (folder / name).write_text(CODE)
        weights = load_file(folder / "model.safetensors")
        weights["lm_head.weight"] = torch.ones(320, 32)  # stored apart from the embedding, and not used
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        edit(folder)
        return folder

    return make


@pytest.fixture(scope="module")
def source(original):
    return original()


@pytest.fixture(scope="module")
def imported(source, tmp_path_factory):
    return import_checkpoint(source, tmp_path_factory.mktemp("imported") / "wemm", origin="wemm")


@pytest.fixture(scope="module")
def encoder(imported):
    return TTEEncoder(str(imported), device="cpu")


@torch.no_grad()
def originals_vector(folder, content, **media):
    """The card's way: template, processor and tokenizer of the original, and the state at the last token."""
    processor = AutoProcessor.from_pretrained(folder)
    normalizer = Tokenizer.from_file(str(folder / "tokenizer.json")).normalizer
    processor.tokenizer.backend_tokenizer.normalizer = normalizer  # which transformers leaves out
    text = processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    text = text.replace("<|vision_start|><|video_pad|><|vision_end|>", "<|video_pad|>")  # as older processors do
    features = processor(text=[text], return_tensors="pt", **media)
    model = AutoModel.from_pretrained(folder, trust_remote_code=False).eval()
    return torch.nn.functional.normalize(model(**features).last_hidden_state[0, -1], dim=0).numpy()


def test_vectors_are_those_of_the_original(source, encoder):
    text = [{"type": "text", "text": "what?"}]
    frames = {"fps": 2.0, "total_num_frames": 4, "frames_indices": [0, 1, 2, 3]}
    expected = [
        *(originals_vector(source, each) for each in TEXTS),
        originals_vector(source, [{"type": "image"}], images=[PICTURE]),
        originals_vector(source, [{"type": "image"}, *text], images=[PICTURE]),
        originals_vector(
            source,
            [{"type": "video"}, {"type": "text", "text": "and then?"}],
            videos=[PIXELS],
            video_metadata=[frames],
            do_sample_frames=False,
        ),
    ]
    vectors = encoder.encode(ITEMS)
    assert np.abs(vectors - np.stack(expected)).max() < 1e-5
    assert np.abs(vectors - np.stack([encoder.encode([item])[0] for item in ITEMS])).max() < 1e-5
    assert encoder.max_budget == 0


def test_the_read_out_is_the_last_token_and_is_not_doubled(imported, encoder):
    assert encoder.tokenizer("").input_ids == []
    for side in ("left", "right"):
        encoder.tokenizer.padding_side = side
        features = encoder.preprocess(ITEMS)
        for ids, mask in zip(features["input_ids"], features["attention_mask"], strict=True):
            read = ids[mask.bool()].tolist()
            assert read[-1] == EMBEDDING
            assert read.count(EMBEDDING) == 1
    plain = SentenceTransformer(str(imported), device="cpu")
    assert [type(module).__name__ for module in plain] == ["Transformer", "Pooling", "Normalize"]
    assert np.abs(plain.encode(TEXTS) - encoder.encode(TEXTS)).max() < 1e-6
    assert not list(imported.glob("*.py"))
    assert "auto_map" not in json.loads((imported / "config.json").read_text())


def test_an_instruction_stands_in_front_of_the_first_text_of_the_turn(encoder):
    def read(item, **options):
        text = encoder.tokenizer.decode(encoder.preprocess([item], **options)["input_ids"][0])
        return re.sub(r"(<\|image_pad\|>)+", "[image]", text)

    picture = "<|vision_start|>[image]<|vision_end|>"
    end = "<|im_end|><embedding>"
    assert read("two", prompt="find it:") == f"<|im_start|>user\nfind it: two{end}"
    assert read(ITEMS[3], prompt="find it:") == f"<|im_start|>user{picture}find it: what?{end}"
    assert read(ITEMS[2], prompt="find it:") == f"<|im_start|>user{picture}find it:{end}"
    chat = [{"role": "system", "content": "find it:"}, {"role": "user", "content": "two"}]
    assert read(chat) == read("two", prompt="find it:")
    with pytest.raises(InputError, match="of the role 'assistant'"):
        read([{"role": "user", "content": "two"}, {"role": "assistant", "content": "three"}])


@pytest.mark.parametrize("method", ["direct", "tte-flash", "lame"])
def test_without_a_thought_a_build_gives_the_vectors_of_the_import(imported, encoder, tmp_path, method):
    options = {} if method == "direct" else {"think_tokens": 3}
    thinker = TTEEncoder(str(build(tmp_path / "out", backbone=imported, method=method, **options)), device="cpu")
    assert np.abs(thinker.encode(ITEMS, think_budget=0) - encoder.encode(ITEMS)).max() < 1e-5
    assert "assistant" not in thinker.tokenizer.decode(thinker.preprocess(["two"])["input_ids"][0])


def test_a_folder_that_is_not_imported_is_refused(source, tmp_path):
    for load in (
        lambda: TTEEncoder(str(source), device="cpu"),
        lambda: build(tmp_path / "out", backbone=source, think_tokens=2),
    ):
        with pytest.raises(CheckpointError, match=f"tte-retriever import {source} OUT --from wemm"):
            load()


def test_it_is_refused_also_without_its_modules_and_on_the_hub(original, monkeypatch):
    folder = original(lambda folder: (folder / "modules.json").unlink())
    with pytest.raises(CheckpointError, match="OUT --from wemm"):
        TTEEncoder(str(folder), device="cpu")
    files = [SimpleNamespace(rfilename=name) for name in ("modules.json", "modeling_wemm_embedding.py")]
    monkeypatch.setattr(hub.HfApi, "model_info", lambda *_args, **_options: SimpleNamespace(siblings=files, config={}))
    with pytest.raises(CheckpointError, match="import tencent/WeMM-Embedding-2B OUT --from wemm"):
        TTEEncoder("tencent/WeMM-Embedding-2B")


def test_a_text_that_is_cut_still_ends_in_the_read_out(imported, encoder):
    long = "a red circle " * 200
    ids = encoder.preprocess([long])["input_ids"][0]
    assert len(ids) == 512
    assert encoder.tokenizer.decode(ids[-2:]) == "<|im_end|><embedding>"
    plain = SentenceTransformer(str(imported), device="cpu").encode([long])
    assert np.abs(plain - encoder.encode([long])).max() < 1e-6


def other_template(folder):
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text("{{- '<|im_start|>system\nhello<|im_end|>' }}" + template)


def other_normalizer(folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | {"normalizer": {"type": "Lowercase"}}))


def other_weights(folder):
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "layers.1.mlp.up_proj" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (other_template, "where the original reads"),
        (other_normalizer, "only drops line ends"),
        (other_weights, r"layers\.1\.mlp\.up_proj\.weight is missing"),
    ],
)
def test_what_would_give_other_vectors_is_refused(original, tmp_path, edit, complaint):
    with pytest.raises(CheckpointError, match=complaint):
        import_checkpoint(original(edit), tmp_path / "out", origin="wemm")
    assert not (tmp_path / "out").exists()


def test_other_checkpoints_and_settings_are_refused(checkpoint, source, tmp_path):
    for family in ("qwen3_vl", "qwen3_5"):
        with pytest.raises(CheckpointError, match="is no WeMM-Embedding"):
            import_checkpoint(checkpoint(family), tmp_path / "out", origin="wemm")
    with pytest.raises(InputError, match="no setting steps; it has none"):
        import_checkpoint(source, tmp_path / "out", origin="wemm", steps=3)


def test_the_command(source, monkeypatch, capsys, tmp_path):
    entry = EntryPoint("import", "tte_retriever.cli.import_:import_", command_line.GROUP)
    monkeypatch.setattr(command_line, "entry_points", lambda **_: [entry])
    with pytest.raises(SystemExit) as ended:
        command_line.main(["import", str(source), str(tmp_path / "out"), "--from", "wemm"])
    assert not ended.value.code
    assert "imported" in capsys.readouterr().out
    assert "WeMM-Embedding-2B" in (tmp_path / "out/README.md").read_text()
