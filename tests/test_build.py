"""From a raw checkpoint of each family to a folder that plain SentenceTransformer loads."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

from tests.checkpoints import FAMILIES
from tte_retriever import TTEEncoder, build, model_path
from tte_retriever.backbones import load_backbone
from tte_retriever.cli import main as command_line
from tte_retriever.errors import CheckpointError, InputError
from tte_retriever.methods import tte_flash
from tte_retriever.methods.table import METHODS

K = 4
TOKENS = 263

PLAIN = """
import sys; sys.modules["tte_retriever"] = None
import numpy as np
from PIL import Image
from sentence_transformers import SentenceTransformer
media, out, *folders = sys.argv[1:]
pixels = np.load(media)
image = Image.fromarray(pixels[0])
times = {"fps": 1000.0, "total_num_frames": 2000, "frames_indices": [0, 500, 1000, 1500]}
video = {"video": {"array": pixels, "video_metadata": times}}
vectors = []
for folder in folders:
    model = SentenceTransformer(folder, device="cpu")
    vectors += [model.encode(item) for item in ({"text": "a red circle"}, {"image": image}, {"image": image, "text": "what?"})]
    vectors.append(model.encode(video, processing_kwargs={"video": {"do_sample_frames": False}}))
np.savez(out, *vectors)
"""


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 255, (4, 64, 96, 3), np.uint8)


@pytest.fixture(scope="module")
def built(checkpoint, tmp_path_factory):
    """One built checkpoint per family; Qwen2.5-VL's is untied and resized."""
    shape = {"qwen2_5_vl": {"rows": TOKENS, "tied": False}}
    out = tmp_path_factory.mktemp("built")
    return {
        family: build(out / family, backbone=checkpoint(family, **shape.get(family, {})), think_tokens=K)
        for family in FAMILIES
    }


def frames(pixels):
    from tte_retriever.media import VideoFrames

    return VideoFrames(tuple(map(Image.fromarray, pixels)), (0.0, 0.5, 1.0, 1.5), 0.0, 2.0)


def rows_of(folder):
    return AutoModel.from_pretrained(folder, dtype=torch.float32).get_input_embeddings().weight.detach()


@pytest.mark.slow
def test_plain_load_without_our_package_gives_the_same_vectors(built, pixels, tmp_path):
    np.save(tmp_path / "media.npy", pixels)
    folders = [*built.values(), model_path("tte-flash-tiny")]
    arguments = [tmp_path / "media.npy", tmp_path / "out.npz", *folders]
    subprocess.run([sys.executable, "-c", PLAIN, *map(str, arguments)], check=True, cwd=tmp_path)
    image = Image.fromarray(pixels[0])
    items = ["a red circle", {"image": image}, {"image": image, "text": "what?"}, {"video": frames(pixels)}]
    plain_vectors = iter(np.load(tmp_path / "out.npz").values())
    for folder in folders:
        ours = TTEEncoder(str(folder), device="cpu")
        vectors = np.stack([ours.encode(item) for item in items])
        assert all(np.array_equal(next(plain_vectors), vector) for vector in vectors)
        assert np.abs(vectors @ vectors.T - np.eye(4)).max() < 0.99999  # four items, four vectors


def test_temporal_positions_are_in_proportion_to_seconds(built, pixels):
    """Four positions a second, as Qwen2.5-VL was trained; a patch has two frames."""
    from tte_retriever.media import VideoFrames

    encoder = TTEEncoder(str(built["qwen2_5_vl"]), device="cpu")
    images = tuple(map(Image.fromarray, [*pixels, *pixels]))
    for seconds in (0.5, 5.0):
        video = VideoFrames(images, tuple(7 + seconds * index for index in range(8)), 7.0, 7 + 8 * seconds)
        features = encoder.preprocess([video])
        names = ("input_ids", "attention_mask", "mm_token_type_ids", "video_grid_thw", "second_per_grid_ts")
        positions, _ = encoder.transformer.model.get_rope_index(**{name: features[name] for name in names})
        temporal = positions[0, 0, features["mm_token_type_ids"][0] == 2].unique()  # (T,)
        assert (temporal - temporal[0]).tolist() == [int(8 * seconds * patch) for patch in range(4)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_an_item_alone_equals_the_item_in_a_mixed_batch(built, family, side, pixels):
    encoder = TTEEncoder(str(built[family]), device="cpu")
    encoder.tokenizer.padding_side = side
    image, other = map(Image.fromarray, pixels[:2])
    chat = [
        {"role": "system", "content": "find it"},
        {"role": "user", "content": [{"type": "image", "image": other}, {"type": "text", "text": "like this"}]},
    ]
    budgeted = [{"role": "user", "content": "a chat of its own", "think_budget": 1}]
    items = ["a red circle", {"image": image}, {"image": other, "text": "what?"}, {"video": frames(pixels)}]
    items += [chat, budgeted]
    alone = np.stack([encoder.encode([item])[0] for item in items])
    assert np.abs(encoder.encode(items, batch_size=len(items)) - alone).max() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_every_think_budget_gives_its_own_vector(built, family):
    encoder = TTEEncoder(str(built[family]), device="cpu")
    vectors = [encoder.encode("a red circle", think_budget=budget) for budget in range(K + 1)]
    distances = [np.abs(a - b).max() for i, a in enumerate(vectors) for b in vectors[:i]]
    assert min(distances) > 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_truncation_keeps_think_and_embed_tokens_of_texts(built, family):
    encoder = TTEEncoder(str(built[family]), device="cpu")
    ids = encoder.preprocess(["a red circle " * 200])["input_ids"][0].tolist()
    assert len(ids) == 512
    assert ids[-K - 1 :] == [*encoder.thought.think_ids, encoder.thought.embed_id]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_template_keeps_its_turns_and_ends_in_think_and_embed_tokens(built, family):
    tokenizer = AutoTokenizer.from_pretrained(built[family])
    user = {"role": "user", "content": "hello"}
    thought = "<|im_start|>assistant\n" + "".join(f"<|think_{i}|>" for i in range(K)) + "<|embed|>"
    default = "" if family.startswith("qwen3") else "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    turn = "<|im_start|>user\nhello<|im_end|>\n"
    system = "<|im_start|>system\nfind it<|im_end|>\n"
    for prompted in (True, False):
        options = {"tokenize": False, "add_generation_prompt": prompted}
        assert tokenizer.apply_chat_template([user], **options) == default + turn + thought
        chat = [{"role": "system", "content": "find it"}, user]
        assert tokenizer.apply_chat_template(chat, **options) == system + turn + thought
    if family.startswith("qwen3"):
        tools = [{"type": "function", "function": {"name": "look"}}]
        rendered = tokenizer.apply_chat_template([user], tools=tools, tokenize=False)
        assert "# Tools" in rendered
        assert rendered.endswith(turn + thought)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("rows", "expected"), [(320, 320), (TOKENS, 320), (TOKENS + K + 1, TOKENS + K + 1)])
def test_the_matrix_grows_only_if_it_must(checkpoint, tmp_path, rows, expected, tied):
    backbone = checkpoint("qwen3_vl", rows=rows, tied=tied)
    after = rows_of(build(tmp_path / "out", backbone=backbone, think_tokens=K))
    assert len(after) == expected
    assert torch.equal(after[:TOKENS], rows_of(backbone)[:TOKENS])


def test_rows_start_as_named_and_the_same_every_time(checkpoint, tmp_path):
    backbone = checkpoint("qwen2_vl")
    before, new = rows_of(backbone), slice(TOKENS, TOKENS + K + 1)

    def rows(name, **options):
        torch.manual_seed(len(name))  # what the process did before must not matter
        return rows_of(build(tmp_path / name, backbone=backbone, think_tokens=K, **options))[new]

    mean = rows("mean")
    assert torch.equal(mean, rows("again"))
    assert not torch.equal(mean, rows("seed", seed=1))
    assert torch.equal(rows("keep", init="keep"), before[new])
    noise = (mean - before[:TOKENS].mean(0)) / before[:TOKENS].std(0)
    assert 0.35 < noise.std() < 0.65


def test_a_resize_is_the_same_every_time(checkpoint, tmp_path):
    backbone = checkpoint("qwen3_vl", rows=TOKENS)
    first, second = (rows_of(build(tmp_path / name, backbone=backbone, init="keep")) for name in ("a", "b"))
    assert torch.equal(first, second)


def test_a_method_called_alone_keeps_the_rows(checkpoint):
    backbone = checkpoint("qwen3_vl")
    transformer = tte_flash.build(backbone, K)[0]
    assert torch.equal(transformer.model.get_input_embeddings().weight, rows_of(backbone))


def test_a_sentence_transformer_keeps_its_prompts_and_modules(checkpoint, tmp_path):
    """The layout of Qwen3-VL-Embedding: stock modules, prompts, a template without thought."""
    from tte_retriever.backbones import load_backbone

    raw = load_backbone(checkpoint("qwen3_vl"))
    prompts = {"query": "Find what is asked for.", "document": "Represent it."}
    stock = SentenceTransformer(
        modules=[raw.transformer, *raw.head], prompts=prompts, default_prompt_name="document", device="cpu"
    )
    stock.save_pretrained(str(tmp_path / "stock"))
    out = build(tmp_path / "out", backbone=tmp_path / "stock", think_tokens=K)
    encoder = TTEEncoder(str(out), device="cpu")
    assert {name: encoder.prompts[name] for name in prompts} == prompts
    assert encoder.default_prompt_name == "document"
    assert [type(module).__name__ for module in encoder] == ["Transformer", "Pooling", "Normalize"]
    assert not np.allclose(encoder.encode_query("circle"), encoder.encode_document("circle"), atol=1e-4)
    assert "`query`, `document`" in (out / "README.md").read_text()


@pytest.mark.slow
def test_every_method_keeps_the_image_size_of_its_backbone(checkpoint, tmp_path):
    options = {"image": {"size": {"shortest_edge": 784, "longest_edge": 3136}}}
    raw = load_backbone(checkpoint("qwen2_5_vl"))
    raw.transformer.processing_kwargs = options
    stock = SentenceTransformer(modules=[raw.transformer, *raw.head], device="cpu")
    stock.save_pretrained(str(tmp_path / "stock"))
    image = {"image": Image.new("RGB", (300, 300))}
    seen = stock.preprocess([image])["image_grid_thw"]
    for method in METHODS:
        out = build(tmp_path / method, backbone=tmp_path / "stock", method=method)
        encoder = TTEEncoder(str(out), device="cpu")
        assert torch.equal(encoder.preprocess([image])["image_grid_thw"], seen), method
        encoder.transformer.processing_kwargs = {}
        assert not torch.equal(encoder.preprocess([image])["image_grid_thw"], seen), method


def test_an_empty_prompt_may_be_the_default(checkpoint, tmp_path):
    from tte_retriever.backbones import load_backbone

    raw = load_backbone(checkpoint("qwen3_vl"))
    prompts = {"query": "Find what is asked for.", "plain": ""}
    stock = SentenceTransformer(
        modules=[raw.transformer, *raw.head], prompts=prompts, default_prompt_name="plain", device="cpu"
    )
    stock.save_pretrained(str(tmp_path / "stock"))
    out = build(tmp_path / "out", backbone=tmp_path / "stock", think_tokens=K)
    encoder = TTEEncoder(str(out), device="cpu")
    assert encoder.default_prompt_name == "plain"
    assert np.array_equal(encoder.encode("circle"), encoder.encode("circle", prompt=""))
    assert not np.allclose(encoder.encode("circle"), encoder.encode_query("circle"), atol=1e-4)
    assert "| prompts kept | `query` |" in (out / "README.md").read_text()


def test_a_sentence_transformer_with_another_pooling_is_refused(checkpoint, tmp_path):
    from sentence_transformers.sentence_transformer.modules import Pooling

    from tte_retriever.backbones import load_backbone

    modules = [load_backbone(checkpoint("qwen3_vl")).transformer, Pooling(32, pooling_mode="mean")]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(tmp_path / "stock"))
    with pytest.raises(CheckpointError, match="last token"):
        build(tmp_path / "out", backbone=tmp_path / "stock")


def test_direct_has_an_embed_token_and_no_think_tokens(checkpoint, tmp_path):
    out = build(tmp_path / "out", backbone=checkpoint("qwen3_vl"), method="direct")
    encoder = TTEEncoder(str(out), device="cpu")
    assert encoder.thought.max_budget == 0
    assert encoder.preprocess(["hello"])["input_ids"][0, -1] == encoder.thought.embed_id


@pytest.mark.parametrize("family", FAMILIES)
def test_card_says_what_it_is_and_that_it_is_not_trained(built, family):
    card = (built[family] / "README.md").read_text()
    assert "NOT TRAINED YET" in card
    assert f"{K} think tokens" in card
    assert family in card
    assert str(built[family].parent) not in card
    assert "tte_retriever" not in (built[family] / "modules.json").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"think_tokens": -1}, "0 to 64"),
        ({"think_tokens": 65}, "0 to 64"),
        ({"method": "tte-flsh"}, "direct or tte-flash"),
        ({"init": "zero"}, "mean or keep"),
        ({"method": "direct", "think_tokens": 2}, "give 0"),
        ({"backbone": "no/such-backbone"}, "no/such-backbone"),
    ],
)
def test_unusable_arguments_are_refused(checkpoint, tmp_path, options, said):
    with pytest.raises(InputError, match=said):
        build(tmp_path / "out", **{"backbone": checkpoint("qwen3_vl"), **options})
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_left_alone(checkpoint, tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(InputError, match="not an empty folder"):
        build(tmp_path, backbone=checkpoint("qwen3_vl"))
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_the_current_folder_is_refused(checkpoint, tmp_path, monkeypatch):
    """A process in it would stay in the folder that is replaced."""
    monkeypatch.chdir(tmp_path)
    for out in (".", tmp_path):
        with pytest.raises(InputError, match="new folder"):
            build(out, backbone=checkpoint("qwen3_vl"))
    assert not any(tmp_path.iterdir())


def test_a_backbone_of_another_family_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match=r"'bert'.*Qwen2-VL.*Qwen2\.5-VL.*Qwen3-VL"):
        build(tmp_path / "out", backbone=tmp_path)


def test_a_checkpoint_with_think_tokens_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="already has 8 think tokens"):
        build(tmp_path / "out", backbone=model_path("tte-flash-tiny"))


@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_a_template_that_opens_a_rationale_ends_in_think_and_embed_tokens(checkpoint, tmp_path, add_generation_prompt):
    """The layout of Qwen3-VL-Thinking: its generation prompt opens a rationale."""
    backbone = shutil.copytree(checkpoint("qwen3_vl"), tmp_path / "backbone")
    template = backbone / "chat_template.jinja"
    opened = template.read_text().replace("'<|im_start|>assistant\\n' }}", "'<|im_start|>assistant\\n<think>\\n' }}")
    assert "<think>" in opened
    template.write_text(opened)
    out = build(tmp_path / "out", backbone=backbone, think_tokens=2)
    rendered = AutoTokenizer.from_pretrained(out).apply_chat_template(
        [{"role": "user", "content": "hello"}], tokenize=False, add_generation_prompt=add_generation_prompt
    )
    assert rendered.endswith("hello<|im_end|>\n<|im_start|>assistant\n<|think_0|><|think_1|><|embed|>")
    encoder = TTEEncoder(str(out), device="cpu")
    ids = [*encoder.thought.think_ids, encoder.thought.embed_id]
    for text in ("hello", "hello " * 300):
        assert encoder.preprocess([text])["input_ids"][0, -3:].tolist() == ids
        assert "<think>" not in encoder.tokenizer.decode(encoder.preprocess([text])["input_ids"][0])


@pytest.mark.parametrize("there", [True, False])
def test_a_build_that_fails_leaves_nothing(checkpoint, tmp_path, monkeypatch, there):
    out = tmp_path / "models" / "out"
    (out if there else out.parent).mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))

    def full(self, path, **_):
        Path(path).mkdir(parents=True, exist_ok=True)
        (Path(path) / "model.safetensors").write_bytes(b"half")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(SentenceTransformer, "save_pretrained", full)
        with pytest.raises(OSError, match="No space left"):
            build(out, backbone=checkpoint("qwen3_vl"), think_tokens=2)
    assert sorted(tmp_path.rglob("*")) == before
    build(out, backbone=checkpoint("qwen3_vl"), think_tokens=2)
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert SentenceTransformer(str(out), device="cpu").encode("hello").shape == (32,)


@pytest.mark.parametrize("tied", [True, False])
def test_card_says_what_became_of_the_output_head(checkpoint, tmp_path, tied):
    out = build(tmp_path / "out", backbone=checkpoint("qwen3_vl", tied=tied), think_tokens=2)
    card = (out / "README.md").read_text()
    assert ("the embedding matrix (tied)" in card, "is not kept" in card) == (tied, not tied)
    from safetensors import safe_open

    with safe_open(out / "model.safetensors", "pt") as weights:
        assert not [name for name in weights.keys() if "lm_head" in name]  # noqa: SIM118  (no mapping)


def test_the_command(checkpoint, tmp_path, monkeypatch, capsys):
    entry = EntryPoint("build", "tte_retriever.cli.build:build", command_line.GROUP)
    monkeypatch.setattr(command_line, "entry_points", lambda **_: [entry])
    monkeypatch.chdir(tmp_path)
    backbone = str(checkpoint("qwen3_vl"))
    arguments = ["build", "tte-flash-2b", "--backbone", backbone, "--method", "tte-flash", "--think-tokens", "2"]
    with pytest.raises(SystemExit) as ended:
        command_line.main(arguments)
    assert ended.value.code == 0
    assert 'SentenceTransformer("tte-flash-2b")' in capsys.readouterr().out
    assert SentenceTransformer("tte-flash-2b", device="cpu").encode("hello").shape == (32,)
    with pytest.raises(SystemExit) as ended:
        command_line.main(arguments)
    assert ended.value.code == 2
    assert "not an empty folder" in capsys.readouterr().err


def test_the_command_is_registered():
    table = (
        (Path(__file__).parents[1] / "pyproject.toml")
        .read_text()
        .partition(f'entry-points."{command_line.GROUP}"]')[2]
    )
    assert 'build = "tte_retriever.cli.build:build"' in table.partition("[")[0]
