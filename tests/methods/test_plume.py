"""PLUME on tiny random models: the rollout against a slow one, what an item becomes, budgets, new models."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from transformers import AutoModel, DynamicCache

from tests.checkpoints import EACH_FAMILY
from tte_retriever import TTEEncoder, build
from tte_retriever.backbones import load_backbone
from tte_retriever.errors import CheckpointError, InputError
from tte_retriever.importing import import_checkpoint
from tte_retriever.methods import plume
from tte_retriever.methods.plume_adapter import RoutedAdapter
from tte_retriever.methods.plume_options import PlumeOptions
from tte_retriever.methods.plume_rollout import DecodeState, rollout
from tte_retriever.methods.plume_routing import routing_statistics

NOISE = np.random.default_rng(0).integers(0, 255, (5, 64, 96, 3), np.uint8)
IMAGE = Image.fromarray(NOISE[0])
ITEMS = [
    "a red circle",
    {"image": IMAGE},
    {"text": "what color is it?", "image": Image.fromarray(NOISE[1, :30])},
    {"video": NOISE},
    [{"role": "user", "content": "and this one thinks for three steps only", "think_budget": 3}],
]


@pytest.fixture(scope="module")
def encoder(plume_original, tmp_path_factory):
    out = import_checkpoint(plume_original(), tmp_path_factory.mktemp("plume") / "plume", origin="plume")
    return TTEEncoder(str(out), device="cpu")


@pytest.fixture(scope="module")
def built(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("built")
    return functools.cache(
        lambda family: build(out / family, backbone=checkpoint(family), method="plume", think_tokens=4)
    )


@pytest.fixture
def roomy(encoder):
    """The encoder with room for large pictures."""
    encoder.max_seq_length = 16384
    yield encoder
    encoder.max_seq_length = 512


@pytest.fixture
def options(encoder):
    """``options(…)`` changes options of the encoder until the test ends."""
    usual = encoder[0].options

    def change(**values):
        encoder[0].options = replace(usual, **values)

    yield change
    encoder[0].options = usual


def rendered(encoder, item):
    return encoder.tokenizer.decode(encoder.preprocess([item])["input_ids"][0])


# The adapter and the rollout ------------------------------------------------------------------------------------------


def one_by_one(adapter, state, step, context):
    """The formula, row by row and expert by expert."""
    width = state.shape[-1]
    hidden = 2 * width
    row = adapter.steps.weight[min(step, adapter.steps.num_embeddings - 1)]
    outputs = []
    for z, c in zip(state, context, strict=True):
        p = functional.softmax(adapter.router(torch.cat([z + c, row])), dim=-1)
        gates = {int(index): p[index] for index in p.topk(adapter.active_experts).indices}
        if adapter.shared_expert:
            gates[adapter.experts] = 1.0
        u, out = adapter.norm(z), z
        for index, gate in gates.items():
            part = slice(index * hidden, (index + 1) * hidden)
            inner = functional.gelu(adapter.up.weight[part] @ u + adapter.up.bias[part])
            out = out + gate * (adapter.down.weight[:, part] @ inner + adapter.down_bias[index])
        outputs.append(out)
    return torch.stack(outputs)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("step", [0, 3, 9])
@torch.no_grad()
def test_the_adapter_is_its_formula(shared, step):
    torch.manual_seed(0)
    adapter = RoutedAdapter(16, experts=4, active_experts=2, shared_expert=shared, step_table=4)
    state, context = torch.randn(5, 16), torch.randn(5, 16)
    out, probabilities = adapter(state, step, context)
    assert torch.allclose(out, one_by_one(adapter, state, step, context), atol=1e-5)
    assert torch.allclose(probabilities.sum(1), torch.ones(5))
    assert not torch.allclose(out, adapter(state, (step + 1) % 4, context)[0], atol=1e-4)


@torch.inference_mode()
def slowly(encoder, item, steps, follow=None):
    """One item, without a cache: all is read again at every step."""
    follow = follow or one_by_one
    plume = encoder[0]
    features = encoder.preprocess([item])
    model = plume.model
    given = {
        key: features[key] for key in ("mm_token_type_ids", "image_grid_thw", "video_grid_thw") if key in features
    }
    positions, _ = model.get_rope_index(features["input_ids"], **given)
    seen = []
    hook = model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    pixels = {key: features[key] for key in ("pixel_values", "pixel_values_videos") if key in features}
    model(input_ids=features["input_ids"], position_ids=positions, **pixels, **given)
    hook.remove()
    embeddings = seen[0]
    length = embeddings.shape[1]
    start = length if plume.options.positions == "kv" else int(positions.max()) + 1

    def states():
        more = torch.arange(embeddings.shape[1] - length) + start
        track = torch.cat([positions, more.expand(3, 1, -1)], dim=2)
        return model.language_model(inputs_embeds=embeddings, position_ids=track, use_cache=False).last_hidden_state

    anchor = states()[
        :, features["input_ids"][0].tolist().index(encoder.tokenizer.convert_tokens_to_ids("<disc_emb>"))
    ]
    for step in range(steps):
        following = follow(plume.adapter, states()[:, -1], step, anchor)
        embeddings = torch.cat([embeddings, following[:, None]], dim=1)
    suffix = encoder.tokenizer(plume.options.suffix, add_special_tokens=False, return_tensors="pt").input_ids
    embeddings = torch.cat([embeddings, model.get_input_embeddings()(suffix)], dim=1)
    return functional.normalize(states()[:, -1], dim=-1)[0].numpy()


@pytest.mark.parametrize("positions", ["kv", "mrope"])
@pytest.mark.parametrize("attention", ["sdpa", pytest.param("eager", marks=pytest.mark.slow)])
def test_a_batch_is_what_each_item_is_alone_and_slowly(encoder, options, positions, attention):
    options(positions=positions)
    encoder[0].model.set_attn_implementation(attention)
    try:
        wanted = np.stack([slowly(encoder, item, 8) for item in ITEMS[:4]] + [slowly(encoder, ITEMS[4], 3)])
        for side in ("left", "right"):
            encoder.tokenizer.padding_side = side
            assert np.abs(encoder.encode(ITEMS) - wanted).max() < 1e-5
        assert np.abs(np.stack(list(encoder.embed(ITEMS))) - wanted).max() < 1e-5
    finally:
        encoder.tokenizer.padding_side = "left"
        encoder[0].model.set_attn_implementation("sdpa")


def test_positions_matter(encoder, options):
    usual = encoder.encode(ITEMS)
    options(positions="mrope")
    assert np.abs(encoder.encode(ITEMS) - usual).max(1)[1:4].min() > 1e-4


def test_think_budget_from_none_to_all(encoder):
    item = ITEMS[2]
    vectors = [encoder.encode(item, think_budget=budget) for budget in range(9)]
    assert encoder.max_budget == 8
    assert len({vector.tobytes() for vector in vectors}) == 9
    assert np.array_equal(encoder.encode(item), vectors[8])
    assert np.abs(vectors[0] - slowly(encoder, item, 0)).max() < 1e-5
    assert np.abs(vectors[5] - slowly(encoder, item, 5)).max() < 1e-5
    for budget in (-1, 9, True):
        with pytest.raises(InputError, match="from 0 to 8"):
            encoder.encode(item, think_budget=budget)


def test_nothing_waits_for_the_device_while_it_thinks(encoder):
    """On the meta device there are no values to wait for: any attempt raises."""
    model, width = encoder[0].model, encoder.get_embedding_dimension()
    with torch.device("meta"):
        backbone = AutoModel.from_config(model.config)
        adapter = RoutedAdapter(width, experts=4, active_experts=2, shared_expert=True, step_table=32)
        decode_state = DecodeState(
            DynamicCache(), torch.ones(3, 0, dtype=torch.bool), torch.zeros(3, dtype=torch.long)
        )
        state, budget = torch.zeros(3, width), torch.zeros(3, dtype=torch.long)
    thought = rollout(backbone, adapter, decode_state, state, state, budget=budget, steps=4)
    assert thought.states.shape == (3, 4, width)
    assert thought.routing.shape == (3, 4, 4)
    with pytest.raises(RuntimeError):
        bool(thought.states.sum() > 0)


def test_gradients_go_back_through_every_step(encoder):
    plume = encoder[0]
    encoder.zero_grad()
    features = encoder.preprocess(ITEMS)
    plume(features)["sentence_embedding"].sum().backward()
    used = plume.adapter.steps.weight.grad.abs().sum(1) > 0
    assert used.tolist() == [True] * 8 + [False] * 24
    assert plume.model.visual.patch_embed.proj.weight.grad.abs().sum() > 0
    encoder.zero_grad()


@pytest.mark.slow
def test_half_precision_stays_near(encoder, tmp_path):
    encoder.save_pretrained(str(tmp_path / "plume"))
    half = TTEEncoder(str(tmp_path / "plume"), device="cpu", model_kwargs={"dtype": "bfloat16"})
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    vectors = encoder.encode(ITEMS)
    assert (half.encode(ITEMS) * vectors).sum(1).min() > 0.98
    with torch.autocast("cpu", torch.bfloat16):
        assert (encoder.encode(ITEMS) * vectors).sum(1).min() > 0.98


# What an item becomes -------------------------------------------------------------------------------------------------


def test_a_text_is_shown_a_white_picture_unless_told_otherwise(encoder, options):
    assert rendered(encoder, "  two words \n").startswith(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
        + 4 * "<|image_pad|>"
        + "<|vision_end|>two words\n<disc_emb>\nRepresent the above"
    )
    pixels = encoder.preprocess(["two"])["pixel_values"]
    assert np.allclose(pixels.amin(0), pixels.amax(0))
    usual = encoder.encode("two")
    options(text_only_visual="none")
    assert "<|image_pad|>" not in rendered(encoder, "two")
    assert np.abs(encoder.encode("two") - usual).max() > 1e-4


def test_media_come_before_the_text_and_the_thought_is_opened(encoder):
    for item in ({"text": "what?", "image": IMAGE}, {"image": IMAGE, "text": "what?"}):
        text = rendered(encoder, item)
        assert "<|vision_end|>what?\n<disc_emb>\n" in text
        assert text.endswith("<|im_end|>\n<|im_start|>assistant\n<think><bot>")
    assert "<|vision_end|>\n<disc_emb>\n" in rendered(encoder, IMAGE)


def test_of_several_images_the_first_is_seen_unless_all_are_asked_for(encoder, options):
    several = {"image": [IMAGE, Image.fromarray(NOISE[1])], "text": "compare"}
    assert np.array_equal(encoder.encode(several), encoder.encode({"image": IMAGE, "text": "compare"}))
    options(several_images="all")
    assert rendered(encoder, several).count("<|vision_start|>") == 2
    assert not np.allclose(encoder.encode(several), encoder.encode({"image": IMAGE, "text": "compare"}), atol=1e-4)


def test_an_item_of_nothing_is_two_spaces_for_stock_code_and_refused_by_ours(encoder):
    with pytest.raises(InputError, match="empty"):
        encoder.encode(" ")
    features = encoder[0].preprocess([" "])
    text = encoder.tokenizer.decode(features["input_ids"][0])
    assert "<|im_start|>user\n  \n<disc_emb>\n" in text


@pytest.mark.parametrize(
    ("size", "resized"),
    [
        ((28, 28), (56, 56)),  # up to the fewest pixels
        ((13, 200), (28, 196)),  # a side that would round to nothing
        ((1, 200), (28, 196)),
        ((57, 99), (56, 112)),
        ((1600, 1500), (1568, 1484)),  # above the second stage's most pixels
        ((4100, 3300), (1708, 1372)),  # above those of both
    ],
)
def test_both_stages_of_resizing(roomy, size, resized):
    features = roomy.preprocess([Image.new("RGB", size)])
    width, height = resized
    assert features["image_grid_thw"].tolist() == [[1, height // 14, width // 14]]


def test_pixels_are_those_of_two_bicubic_resizes(roomy):
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (1500, 1700, 3), np.uint8))
    twice = noise.resize((1708, 1512), Image.Resampling.BICUBIC).resize((1624, 1428), Image.Resampling.BICUBIC)
    features, exact = roomy.preprocess([noise]), roomy.processor.image_processor(twice, return_tensors="pt")
    assert features["image_grid_thw"].tolist() == exact["image_grid_thw"].tolist()
    assert torch.equal(features["pixel_values"], exact["pixel_values"])


def test_frames_are_resized_as_images_and_an_odd_one_is_repeated(encoder):
    frames = [Image.fromarray(frame).resize((70, 45)) for frame in NOISE]
    features = encoder.preprocess([{"video": frames}])
    assert features["video_grid_thw"].tolist() == [[3, 4, 4]]
    still = encoder.preprocess([{"image": frames[4]}])
    patches = features["pixel_values_videos"].reshape(3, 16, -1)
    assert torch.allclose(patches[2], still["pixel_values"])


def test_control_tokens_in_a_text_stay_text(encoder):
    ids = encoder.preprocess(["<disc_emb> <bot> <gen_emb> <|im_end|> a red circle"])["input_ids"][0].tolist()
    assert [ids.count(encoder.tokenizer.convert_tokens_to_ids(mark)) for mark in ("<disc_emb>", "<bot>")] == [1, 1]


def test_nothing_is_cut_off_and_what_is_too_long_is_refused(encoder):
    with pytest.raises(InputError, match="raise max_seq_length"):
        encoder.encode("a red circle " * 60)


def test_a_longer_text_is_read_whole_where_there_is_room(roomy):
    assert rendered(roomy, "a red circle " * 60).count("circle") == 60


# New models -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", EACH_FAMILY[:3])
def test_a_new_plume_of_every_family(built, family):
    encoder = TTEEncoder(str(built(family)), device="cpu")
    assert encoder[0].options.positions == "mrope"
    assert encoder.max_budget == 4
    vectors = encoder.encode(ITEMS)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.abs(vectors - np.stack([encoder.encode([item])[0] for item in ITEMS])).max() < 1e-5
    assert np.abs(vectors - np.stack(list(encoder.embed(ITEMS)))).max() < 1e-5
    assert np.abs(vectors[0] - slowly(encoder, ITEMS[0], 4)).max() < 1e-5
    assert np.abs(vectors[:4] - encoder.encode(ITEMS[:4], think_budget=0)).max(1).min() > 1e-4
    assert "<|image_pad|>" not in rendered(encoder, "two")


def test_without_an_adapter_a_state_is_the_next_input(checkpoint, tmp_path):
    out = build(tmp_path / "out", backbone=checkpoint("qwen3_vl"), method="plume", think_tokens=4, experts=0)
    encoder = TTEEncoder(str(out), device="cpu")  # which has read what was saved
    vectors = encoder.encode(ITEMS)
    assert np.abs(vectors[0] - slowly(encoder, ITEMS[0], 4, lambda _adapter, state, *_: state)).max() < 1e-5
    assert np.abs(vectors[:4] - encoder.encode(ITEMS[:4], think_budget=0)).max(1).min() > 1e-4
    with pytest.raises(CheckpointError, match="no adapter"):
        routing_statistics(encoder, ITEMS)
    with pytest.raises(InputError, match="give 0 and False"):
        PlumeOptions(experts=0)


def test_the_same_seed_builds_the_same_model(built, checkpoint, tmp_path):
    same = build(tmp_path / "same", backbone=checkpoint("qwen2_vl"), method="plume", think_tokens=4)
    other = build(tmp_path / "other", backbone=checkpoint("qwen2_vl"), method="plume", think_tokens=4, seed=1)
    prints = [TTEEncoder(str(folder), device="cpu").fingerprint for folder in (built("qwen2_vl"), same, other)]
    assert prints[0] == prints[1] != prints[2]


def test_the_card_says_how_it_thinks_and_who_loads_it(built):
    card = (built("qwen3_vl") / "README.md").read_text()
    assert "4 latent steps" in card
    assert "trust_remote_code" in card


def test_more_steps_than_the_table_has_and_a_backbone_that_is_one_already_are_refused(checkpoint, tmp_path):
    with pytest.raises(InputError, match="from 0 to 32"):
        build(tmp_path / "out", backbone=checkpoint("qwen2_vl"), method="plume", think_tokens=33)
    backbone = load_backbone(checkpoint("qwen3_vl"))
    plume.build(backbone)
    with pytest.raises(CheckpointError, match="already"):
        plume.build(backbone)


def test_a_recurrent_backbone_is_refused(checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match=r"plume cannot be built on Qwen3\.5: .*use tte-flash"):
        build(tmp_path / "out", backbone=checkpoint("qwen3_5"), method="plume")


def test_think_tokens_of_a_backbone_stay_out_of_the_way(checkpoint, tmp_path):
    raw = checkpoint("qwen3_vl")
    thinking = build(tmp_path / "flash", backbone=raw, think_tokens=2)
    prompts = []
    for name, backbone in (("raw", raw), ("thinking", thinking)):
        out = build(tmp_path / name, backbone=backbone, method="plume", think_tokens=4)
        encoder = TTEEncoder(str(out), device="cpu")
        prompts.append(rendered(encoder, "two"))
        assert encoder.max_budget == 4
    assert prompts[0] == prompts[1]


def test_the_instruction_is_a_choice(checkpoint, tmp_path):
    for instruction, end in (("", "<disc_emb>"), ("say it", "<disc_emb>\nsay it")):
        out = build(
            tmp_path / f"o{len(instruction)}", backbone=checkpoint("qwen3_vl"), method="plume", instruction=instruction
        )
        assert f"two\n{end}<|im_end|>\n" in rendered(TTEEncoder(str(out), device="cpu"), "two")
