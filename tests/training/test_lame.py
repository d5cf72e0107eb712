"""LameLoss: what the reconstruction sees, what GradCache gives, what the regulariser does, and where the decoder stays."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from torch.nn import functional as F

from tests.checkpoints import EACH_FAMILY
from tte_retriever import TTEEncoder, build
from tte_retriever.errors import InputError
from tte_retriever.training.data.item_codec import item_parts
from tte_retriever.training.lame.collator import LameCollator
from tte_retriever.training.lame.diversity import pairwise_cosines
from tte_retriever.training.lame.loss import LameLoss
from tte_retriever.training.run import train
from tte_retriever.training.tte_flash.collator import TTECollator

K = 4
END = 258  # <|im_end|> of the tiny tokenizers
ROWS = 5


@pytest.fixture(scope="module")
def folders(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("lame")
    return functools.cache(
        lambda family: build(out / family, backbone=checkpoint(family), method="lame", think_tokens=K)
    )


@pytest.fixture
def encoder(folders):
    return TTEEncoder(str(folders("qwen3_vl")), device="cpu").train()


def texts(*lengths):
    """(B, R) ids that end in the end-of-turn token; length 0 is none."""
    ids = torch.full((len(lengths), max(*lengths, 1)), -100)
    for row, length in enumerate(lengths):
        if length:
            ids[row, :length] = torch.arange(10 * row + 1, 10 * row + 1 + length)
            ids[row, length - 1] = END
    return ids


def chat(text, budget, image=None):
    media = [] if image is None else [{"type": "image", "image": image}]
    return [{"role": "user", "content": [*media, {"type": "text", "text": text}], "think_budget": budget}]


def columns(encoder):
    """A picture, budgets 0 to K, targets of several lengths or none, two rows with one answer."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    words = ["what is it?", "how many?", "a longer question about it", "where", "why"]
    anchors = [chat(*row) for row in zip(words, (K, 2, K, 0, 1), (picture, *[None] * 4), strict=True)]
    return [
        {**encoder.preprocess(anchors), "rationale_ids": texts(5, 3, 0, 4, 1), "content_id": torch.arange(100, 105)},
        {
            **encoder.preprocess(["red", "two", "blue", "two", "a much longer answer"]),
            "content_id": torch.tensor([7, 3, 8, 3, 9]),
        },
    ]


def gradients(module, parts):
    module.zero_grad(set_to_none=True)
    torch.stack(list(parts.values())).sum().backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def distance(one, other):
    """Relative difference over all parameters."""
    assert one.keys() == other.keys()
    flat = [torch.cat([grads[name].flatten() for name in sorted(one)]) for grads in (one, other)]
    return ((flat[0] - flat[1]).norm() / flat[1].norm()).item()


def reason_states(encoder, column):
    """Every row's own, one by one.  [(K, D)]"""
    out = encoder({key: value for key, value in column.items() if key not in ("rationale_ids", "content_id")})
    thought = torch.isin(column["input_ids"], torch.tensor(encoder.thought.think_ids))
    return [states[at] for states, at in zip(out["token_embeddings"], thought, strict=True)]


def plain_parts(loss, encoder, inputs):
    """The definition, row by row; the decoder is called without any padding."""
    nlls, diversities, backbone = [], [], encoder[0].model
    for column in inputs:
        rows = reason_states(encoder, column)
        for states, ids in zip(rows, column.get("rationale_ids", [texts(0)[0]] * ROWS), strict=True):
            ids = ids[ids >= 0]
            if len(ids) and len(states):
                nlls.append(loss.light_decoder(states[None], torch.ones(1, len(states)).bool(), ids[None], backbone))
            if len(states) > 1:
                pairs = [F.cosine_similarity(a, b, dim=0) ** 2 for i, a in enumerate(states) for b in states[:i]]
                diversities.append(torch.stack(pairs).mean())
    return {
        "reconstruction": torch.cat(nlls).mean(),
        "diversity": loss.diversity_weight * torch.stack(diversities).mean(),
    }


@pytest.mark.parametrize("family", EACH_FAMILY)
@pytest.mark.parametrize("layers", [1, 2])
def test_values_and_gradients_are_those_of_the_plain_loss_with_and_without_gradcache(folders, family, layers):
    encoder = TTEEncoder(str(folders(family)), device="cpu").train()
    inputs = columns(encoder)
    loss = LameLoss(encoder, contrastive_weight=0, decoder_layers=layers, diversity_weight=0.7)
    expected = plain_parts(loss, encoder, inputs)
    reference = gradients(loss, expected)
    assert any(name.startswith("light_decoder") for name in reference)
    assert "model.0.model.visual.patch_embed.proj.weight" in reference
    for size in (8, 3, 1):  # one pass, and GradCache
        loss.mini_batch_size = size
        parts = loss(inputs)
        assert list(parts) == ["reconstruction", "diversity"]
        for name, value in parts.items():
            assert value.item() == pytest.approx(expected[name].item(), rel=1e-5)
        assert distance(gradients(loss, parts), reference) < 1e-5


@pytest.mark.parametrize(
    "options", [{}, {"stop_gradient": True}, {"decoder_layers": 0}, {"decoder_layers": 0, "decoder": "kv"}]
)
def test_gradcache_changes_nothing_in_the_whole_loss(encoder, options):
    inputs = columns(encoder)
    loss = LameLoss(encoder, **options)
    parts = loss(inputs)
    assert list(parts) == ["contrastive", "reconstruction", "diversity"]
    one_pass, metrics = gradients(loss, parts), loss.metrics
    loss.mini_batch_size = 2
    assert distance(gradients(loss, loss(inputs)), one_pass) < 1e-5
    for name in LameLoss.METRICS:
        assert loss.metrics[name].item() == pytest.approx(metrics[name].item(), rel=1e-4)


# ------------------------------------------------------------------------------- what the decoder sees


@pytest.mark.parametrize(
    "options", [{"decoder_layers": 1}, {"decoder_layers": 2}, {"decoder_layers": 0, "decoder": "soft-prompt"}]
)
def test_the_reconstruction_reads_the_reason_tokens_and_nothing_else(encoder, options):
    """Noise on every other state changes it by nothing at all, noise on theirs does."""
    torch.manual_seed(0)  # of the decoder, which is not trained: some hardly listen to the states
    loss = LameLoss(encoder, contrastive_weight=0, **options)
    features = encoder.preprocess(["what is it?", "a longer question", "x"])
    thought = torch.isin(features["input_ids"], torch.tensor(encoder.thought.think_ids))

    def reconstruction(at):
        noise = torch.randn((*at.shape, 32), generator=torch.Generator().manual_seed(1))

        def swap(_module, _args, out):
            out["token_embeddings"] = torch.where(at[..., None], noise, out["token_embeddings"])

        handle = encoder[0].register_forward_hook(swap)
        value = loss([{**features, "rationale_ids": texts(5, 3, 4)}])["reconstruction"].item()
        handle.remove()
        return value

    clean = reconstruction(torch.zeros_like(thought))
    assert reconstruction(~thought) - clean == 0.0
    assert abs(reconstruction(thought) - clean) > 1e-3


def test_the_backbone_decodes_where_it_is_told_to(encoder):
    inputs = columns(encoder)
    own, shared, keys_values = (
        LameLoss(encoder, contrastive_weight=0, **options)(inputs)["reconstruction"].item()
        for options in ({}, {"decoder_layers": 0}, {"decoder_layers": 0, "decoder": "kv"})
    )
    assert len({round(value, 4) for value in (own, shared, keys_values)}) == 3


def test_a_later_word_does_not_reach_an_earlier_one(encoder):
    """Teacher forcing, not copying: the loss of a prefix is what it is without the rest."""
    decoder, backbone = LameLoss(encoder, decoder_layers=2).light_decoder, encoder[0].model
    states, present = torch.randn(1, K, 32), torch.ones(1, K).bool()
    whole, other = (torch.tensor([[1, 2, 3, last]]) for last in (4, 9))
    prefix = decoder(states, present, whole[:, :3], backbone) * 3
    for ids in (whole, other):
        rest = decoder(states, present, ids, backbone) * 4 - prefix
        assert rest > 0
    changed = torch.tensor([[1, 7, 3]])
    assert not torch.allclose(decoder(states, present, changed, backbone) * 3, prefix)


def test_without_any_target_or_reason_token_nothing_is_trained(encoder):
    inputs = columns(encoder)
    inputs[0]["rationale_ids"] = texts(*[0] * ROWS)
    no_thought = {**encoder.preprocess(["a", "b"], think_budget=0), "rationale_ids": texts(3, 3)}
    for batch, expected in ((inputs, {"reconstruction"}), ([no_thought], {"reconstruction", "diversity"})):
        for size in (ROWS, 1):
            loss = LameLoss(encoder, contrastive_weight=0, mini_batch_size=size)
            parts = loss(batch)
            assert {name for name, value in parts.items() if value.item() == 0} == expected
            assert all(grad.isfinite().all() for grad in gradients(loss, parts).values())


# ------------------------------------------------------------------------------------------- collapse


def test_cosines_of_hand_made_states():
    states = torch.tensor([[[1.0, 0], [0, 1], [-1, 0]], [[1, 0], [2, 0], [5, 5]], [[1, 0], [9, 9], [9, 9]]])
    present = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
    cosine, square = pairwise_cosines(states, present)
    assert cosine.tolist() == pytest.approx([-1 / 3, 1, 0])
    assert square.tolist() == pytest.approx([1 / 3, 1, 0])


@pytest.mark.slow
def test_the_regulariser_lowers_the_cosine_of_the_reason_states(folders):
    def trained(weight):
        torch.manual_seed(0)
        encoder = TTEEncoder(str(folders("qwen3_vl")), device="cpu").train()
        inputs, loss = columns(encoder), LameLoss(encoder, diversity_weight=weight)
        optimizer = torch.optim.AdamW(loss.parameters(), lr=1e-3)
        for _ in range(12):
            optimizer.zero_grad()
            torch.stack(list(loss(inputs).values())).sum().backward()
            optimizer.step()
        return loss.metrics["reason_cosine"].item()

    without, with_it = trained(0.0), trained(1.0)
    assert with_it < without - 0.05


def test_metrics_are_of_reason_states_and_of_different_embeddings(encoder):
    inputs = columns(encoder)
    loss = LameLoss(encoder)
    loss(inputs)
    by_row = []
    for column in inputs:
        for states in reason_states(encoder, column):
            pairs = [F.cosine_similarity(a, b, dim=0) for i, a in enumerate(states) for b in states[:i]]
            by_row += [torch.stack(pairs).mean()] if pairs else []
    assert loss.metrics["reason_cosine"].item() == pytest.approx(torch.stack(by_row).mean().item(), rel=1e-4)
    queries, answers = (
        encoder({k: v for k, v in column.items() if k not in ("rationale_ids", "content_id")})["sentence_embedding"]
        for column in inputs
    )
    vectors = torch.cat([queries, answers[[0, 1, 2, 4]]])  # rows 1 and 3 have the same answer
    cosines = (vectors @ vectors.T)[~torch.eye(len(vectors), dtype=torch.bool)]
    assert loss.metrics["embedding_cosine"].item() == pytest.approx(cosines.mean().item(), rel=1e-4)


# ------------------------------------------------------------------------------------------- options


def test_zero_weights_leave_a_part_out(encoder):
    inputs = columns(encoder)
    assert list(LameLoss(encoder, diversity_weight=0)(inputs)) == ["contrastive", "reconstruction"]
    assert list(LameLoss(encoder, rationale_weight=0)(inputs)) == ["contrastive", "diversity"]
    half, whole = (LameLoss(encoder, diversity_weight=weight)(inputs)["diversity"].item() for weight in (0.5, 1))
    assert half == pytest.approx(whole / 2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"decoder_layers": -1}, "decoder_layers is -1"),
        ({"diversity_weight": -1}, "diversity_weight is -1"),
        ({"rationale_from": "query+thought"}, "reads the reason tokens alone"),
        ({"decoder_model": "no-such/model"}, "decoder_model 'no-such/model' cannot be loaded"),
    ],
)
def test_options_out_of_range(encoder, options, said):
    with pytest.raises(InputError, match=said):
        LameLoss(encoder, **options)


def test_the_state_of_the_loss_is_temperature_and_decoder(encoder):
    loss, other = LameLoss(encoder, decoder_layers=2), LameLoss(encoder, decoder_layers=2)
    state = loss.state_dict()
    assert "log_scale" in state
    assert any(name.startswith("light_decoder.") for name in state)
    assert not any("model" in name for name in state)
    inputs = columns(encoder)
    assert other(inputs)["reconstruction"].item() != loss(inputs)["reconstruction"].item()
    other.load_state_dict(state)
    assert other(inputs)["reconstruction"].item() == loss(inputs)["reconstruction"].item()
    with pytest.raises(InputError, match="light_decoder"):
        LameLoss(encoder, decoder_layers=1).load_state_dict(state)
    assert loss.get_config_dict()["decoder_layers"] == 2


def test_bf16_autocast_reaches_the_decoder(encoder):
    """The trainer wraps the model's forward, not the loss."""
    inputs = columns(encoder)
    loss = LameLoss(encoder)
    exact = loss(inputs)
    reference, dtypes = gradients(loss, exact), set()
    loss.light_decoder.layers.layers[0].linear1.register_forward_hook(lambda _m, _a, out: dtypes.add(out.dtype))
    encoder.forward = torch.autocast("cpu", torch.bfloat16)(encoder.forward)
    parts = loss(inputs)
    assert parts["reconstruction"].item() == pytest.approx(exact["reconstruction"].item(), rel=0.02)
    assert distance(gradients(loss, parts), reference) < 0.1
    assert dtypes == {torch.bfloat16}
    assert LameLoss(encoder.to(torch.bfloat16))(inputs)["reconstruction"].isfinite()


# ------------------------------------------------------------------------------------------ the collator


def test_the_parts_of_an_item():
    picture = Image.new("RGB", (64, 64))
    assert list(item_parts(" a red circle ")) == ["a red circle"]
    for media in (picture, {"image": picture}, {"image": Path("a.png")}, {"video": [Path("a.png"), Path("b.png")]}):
        assert list(item_parts(media)) == [None]
    assert list(item_parts({"text": ["red"], "image": picture})) == ["red", None]
    parts = [{"type": "image", "image": picture}, {"type": "text", "text": "red"}, {"type": "text", "text": "round"}]
    turns = [{"role": "system", "content": "find it"}, {"role": "user", "content": parts}]
    assert list(item_parts(turns)) == list(item_parts({"message": turns})) == [None, "red", "round"]
    assert list(item_parts([{"role": "user", "content": "red"}])) == ["red"]


def decoded(collator, column):
    tokenizer = collator.model.tokenizer
    return [tokenizer.decode(row[row >= 0]) for row in column]


ROW = {"anchor": "what?", "anchor_rationale": "it looks red", "positive_rationale": "a red picture"}


def test_the_anchor_reconstructs_the_positive(encoder):
    picture = Image.new("RGB", (64, 64))
    positives = ["red", {"image": picture}, {"text": "red", "image": picture}]
    rows = [ROW | {"positive": positive} for positive in positives]
    skipping, captioned, own = (
        LameCollator(encoder, **options)
        for options in ({}, {"rationale_as_caption": True}, {"reconstruct": "rationale"})
    )
    end = "<|im_end|>"
    batch = skipping(rows)
    assert decoded(skipping, batch["anchor_rationale_ids"]) == [f" red{end}", "", f" red{end}"]
    assert decoded(skipping, batch["positive_rationale_ids"]) == ["", "", ""]
    assert decoded(captioned, captioned(rows)["anchor_rationale_ids"]) == [f" red{end}", *[f" a red picture{end}"] * 2]
    batch, plain = own(rows), TTECollator(encoder)(rows)
    assert batch.keys() == plain.keys()
    assert torch.equal(batch["anchor_rationale_ids"], plain["anchor_rationale_ids"])
    assert decoded(own, batch["positive_rationale_ids"])[0] == f" a red picture{end}"
    with pytest.raises(InputError, match="answer or rationale"):
        LameCollator(encoder, reconstruct="everything")


# --------------------------------------------------------------------------------------- through the trainer

LAME = ("model.method=lame", "data.0.path=pairs.jsonl")


@pytest.fixture
def lame(configured, tmp_path, monkeypatch):
    """``lame(*overrides)`` is a config over pairs without any rationale, in the working directory."""
    monkeypatch.chdir(tmp_path)
    rows = [{"anchor": f"q {color}", "positive": f"{color} thing"} for color in ("red", "green", "blue", "gray")]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return lambda *overrides: configured(*LAME, *overrides)


@pytest.mark.slow
@pytest.mark.parametrize("pretrained", [False, True])
def test_the_result_has_no_decoder_and_loads_with_stock_classes(lame, language_model, pretrained):
    config = lame("max_steps=1", *[f"loss.decoder_model={language_model}"] * pretrained)
    result = train(config)
    saved, start = (load_file(Path(folder) / "model.safetensors") for folder in (result, config.model.backbone))
    assert saved.keys() == start.keys()
    assert "tte_retriever" not in (result / "modules.json").read_text()
    assert not [path for path in result.rglob("*") if "loss" in path.name or "decoder" in path.name]
    vectors = SentenceTransformer(str(result), device="cpu").encode(["a", "b"])
    assert np.array_equal(TTEEncoder(str(result), device="cpu").encode(["a", "b"]), vectors)
    card = (result / "README.md").read_text()
    assert "diversity" in card
    assert "decoder_layers 1" in card


@pytest.mark.slow
@pytest.mark.parametrize(("pretrained", "weight"), [(False, "linear1.weight"), (True, "up_proj.weight")])
def test_the_decoder_is_trained_saved_resumed_and_carried_on(
    lame, language_model, tmp_path, monkeypatch, pretrained, weight
):
    config = lame(*[f"loss.decoder_model={language_model}"] * pretrained)
    straight = train(config)
    first, second = (load_file(f"out/{stage}/loss.safetensors") for stage in ("warm-up", "joint"))
    begun = load_file("out/joint/checkpoint-2/trained.safetensors")
    names = [name for name in first if name.endswith(weight)]
    assert names
    for name in names:
        assert not torch.equal(first[name], second[name])
        assert (begun[f"loss.{name}"] - first[name]).abs().max() < 3e-3  # two steps of Adam at a rate of 1e-3
    collate, made = TTECollator.__call__, []

    def stop(self, features):
        made.append(1)
        if len(made) == 8:
            raise KeyboardInterrupt
        return collate(self, features)

    (tmp_path / "stopped").mkdir()
    rows = Path("pairs.jsonl").read_text()
    monkeypatch.chdir(tmp_path / "stopped")
    Path("pairs.jsonl").write_text(rows)
    with monkeypatch.context() as patch:
        patch.setattr(TTECollator, "__call__", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    resumed = train(config)
    for here, there in (("joint/loss.safetensors",) * 2, ("model/model.safetensors",) * 2):
        one, other = load_file(f"out/{here}"), load_file(tmp_path / "out" / there)
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert straight == resumed


@pytest.mark.slow
def test_collapse_is_in_the_log(lame):
    train(lame())
    for stage, parts in (("warm-up", {"reconstruction"}), ("joint", {"reconstruction", "contrastive"})):
        history = json.loads(Path(f"out/{stage}/log.json").read_text())["log_history"]
        entries = [entry for entry in history if "loss" in entry]
        assert len(entries) == 4
        for entry in entries:
            assert entry["loss"] == pytest.approx(sum(entry[part] for part in {*parts, "diversity"}), abs=1e-3)
            assert all(-1 <= entry[name] <= 1 for name in LameLoss.METRICS)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [(), ("lora={rank: 2, alpha: 4}",)], ids=["full", "lora"])
def test_a_warm_up_of_nothing_but_the_reason_tokens(lame, lora):
    """Everything else of the model is frozen; the decoder is trained."""
    config = lame("max_steps=2", "stages.0.freeze=[backbone]", "trainer.weight_decay=0.1", *lora)
    train(config)
    before, after, last = (
        load_file(Path(folder) / "model.safetensors")
        for folder in (config.model.backbone, "out/warm-up/model", "out/joint/model")
    )
    (matrix,) = [name for name in before if not torch.equal(before[name], after[name])]
    assert matrix.endswith("embed_tokens.weight")
    thought = TTEEncoder(config.model.backbone, device="cpu").thought
    rows = (before[matrix] != after[matrix]).any(1).nonzero()[:, 0].tolist()
    assert set(rows) <= {*thought.think_ids, thought.embed_id}
    assert set(thought.think_ids) <= set(rows)
    assert any(not torch.equal(last[name], after[name]) for name in before if "q_proj" in name)


@pytest.fixture(scope="module")
def one_step(configured, pairs_file, tmp_path_factory):
    """``one_step(*overrides)`` is the weights after a step in each stage."""

    def trained(*overrides):
        folder = tmp_path_factory.mktemp("one-step")
        options = (*LAME, f"data.0.path={pairs_file}", "max_steps=1", f"output_dir={folder}", *overrides)
        return load_file(train(configured(*options)) / "model.safetensors")

    return trained


@pytest.fixture(scope="module")
def base(one_step):
    """The same with the default of every flag."""
    return one_step()


@pytest.mark.slow
@pytest.mark.parametrize(
    "override",
    [
        "loss.decoder_layers=2",
        "loss.decoder_layers=0",
        "loss={decoder_layers: 0, decoder: kv}",
        "stages.1.rationale_weight=0",
        "stages.0.diversity_weight=0",
        "collator.reconstruct=rationale",
        "loss.stop_gradient=true",
    ],
)
def test_every_open_question_is_one_flag(one_step, base, override):
    """The file has rationales here, which answers do not need."""
    other = one_step(override)
    assert any(not torch.equal(base[name], other[name]) for name in base)


def test_k_is_the_number_of_think_tokens_and_zero_is_refused(checkpoint, tmp_path):
    backbone = checkpoint("qwen3_vl")
    sizes = [
        TTEEncoder(str(build(tmp_path / str(k), backbone=backbone, method="lame", think_tokens=k))).thought.max_budget
        for k in (1, 3)
    ]
    assert sizes == [1, 3]
    with pytest.raises(InputError, match="1 or more"):
        build(tmp_path / "none", backbone=backbone, method="lame", think_tokens=0)
