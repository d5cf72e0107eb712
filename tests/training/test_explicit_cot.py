"""ExplicitCoTLoss against the slow way, through GradCache, and what a model that was trained with it writes."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import AutoModelForMultimodalLM

from tests.checkpoints import EACH_FAMILY
from tte_retriever import TTEEncoder, build
from tte_retriever.errors import InputError
from tte_retriever.explain import read_rationale
from tte_retriever.training.explicit_cot.collator import ExplicitCoTCollator
from tte_retriever.training.explicit_cot.loss import ExplicitCoTLoss
from tte_retriever.training.run import train

ROWS = 5


@pytest.fixture(scope="module")
def folders(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("explicit-cot")
    return functools.cache(
        lambda family: build(
            out / family,
            backbone=checkpoint(family, tied=family != "qwen2_5_vl"),
            method="explicit-cot",
            think_tokens=40,
        )
    )


@pytest.fixture
def encoder(folders):
    return TTEEncoder(str(folders("qwen3_vl")), device="cpu").train()


@pytest.fixture(scope="module")
def rows():
    """Pictures, rationales of several lengths, one that is cut and one that is none, and two rows with one answer."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))
    questions = ["how many?", {"image": picture, "text": "what is it?"}, "where", "a longer question about it", "why"]
    answers = ["two", "red", {"image": picture}, "two", "a much longer answer"]
    thoughts = ["I count", "it has the color of wine", "", "one and one, " * 6, "because"]
    return [
        {"anchor": question, "positive": answer, "anchor_rationale": thought, "positive_rationale": thought[:5]}
        for question, answer, thought in zip(questions, answers, thoughts, strict=True)
    ]


def columns(encoder, rows):
    batch = ExplicitCoTCollator(encoder, max_rationale_tokens=50)(rows)
    return [
        {key.removeprefix(f"{name}_"): value for key, value in batch.items() if key.startswith(f"{name}_")}
        for name in ("anchor", "positive")
    ]


def written_out(folder, encoder, rows):
    """One row at a time, by the model alone: vectors of both kinds, and the NLL of the rationale, for each column."""
    model = AutoModelForMultimodalLM.from_pretrained(folder).eval()
    gen, disc = encoder.tokenizer.convert_tokens_to_ids(["<gen_emb>", "<disc_emb>"])
    results = {}
    for column in ("anchor", "positive"):
        vectors, discs, nlls = [], [], []
        for row in rows:
            features = encoder.preprocess([row[column]])
            ids = encoder.tokenizer(
                f"<think>{row[f'{column}_rationale']}</think>\n", add_special_tokens=False
            ).input_ids
            ids = [gen] if not row[f"{column}_rationale"] else [*ids, gen][:50]
            prompt = features["input_ids"][0].tolist()
            whole = torch.tensor([[*prompt, *ids, *([] if ids[-1:] == [gen] else [gen])]])
            kinds = F.pad(features["mm_token_type_ids"], (0, whole.shape[1] - len(prompt)))
            media = {key: value for key, value in features.items() if key.startswith(("pixel", "image_grid"))}
            with torch.no_grad():
                out = model(input_ids=whole, mm_token_type_ids=kinds, output_hidden_states=True, **media)
            states = F.normalize(out.hidden_states[-1][0], dim=1)
            vectors.append(states[-1])
            discs.append(states[prompt.index(disc)])
            predicted = out.logits[0, len(prompt) - 1 : len(prompt) - 1 + len(ids)]
            nlls.append(F.cross_entropy(predicted, torch.tensor(ids)))
        results[column] = torch.stack(vectors), torch.stack(discs), nlls
    return results


def info_nce(queries, candidates, temperature):
    """Rows 0 and 3 have the same positive, so it counts once."""
    scores = queries @ candidates[[0, 1, 2, 4]].T / temperature
    return F.cross_entropy(scores, torch.tensor([0, 1, 2, 0, 3]))


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_it_is_what_the_slow_way_gives(folders, rows, family):
    encoder = TTEEncoder(str(folders(family)), device="cpu").train()
    weights = {"contrastive_weight": 0.5, "rationale_weight": 2.0, "disc_weight": 0.25}
    loss = ExplicitCoTLoss(encoder, temperature=0.1, **weights)
    parts = loss(columns(encoder, rows))
    assert set(parts) == set(loss.PARTS)
    slow = written_out(folders(family), encoder, rows)
    (queries, query_discs, query_nlls), (answers, answer_discs, answer_nlls) = slow.values()
    nlls = torch.stack([*query_nlls, *answer_nlls])  # without a rationale, that of embedding at once
    assert parts["contrastive"].item() == pytest.approx(0.5 * info_nce(queries, answers, 0.1).item(), abs=1e-5)
    assert parts["disc"].item() == pytest.approx(0.25 * info_nce(query_discs, answer_discs, 0.1).item(), abs=1e-5)
    assert parts["rationale"].item() == pytest.approx(2.0 * nlls.mean().item(), abs=1e-5)
    assert not torch.allclose(queries, query_discs, atol=1e-3)


def gradients(loss, parts):
    loss.zero_grad(set_to_none=True)
    torch.stack(list(parts.values())).sum().backward()
    return {name: each.grad.clone() for name, each in loss.named_parameters() if each.grad is not None}


def test_mini_batches_give_the_same_gradients(encoder, rows):
    batch = columns(encoder, rows)
    whole, cached = (ExplicitCoTLoss(encoder, mini_batch_size=size) for size in (ROWS, 2))
    parts, again = whole(batch), cached(batch)
    for name in parts:
        assert again[name].item() == pytest.approx(parts[name].item(), abs=1e-5)
    expected, given = gradients(whole, parts), gradients(cached, again)
    assert expected.keys() == given.keys()
    assert any("visual" in name for name in expected)
    for name, gradient in expected.items():
        assert (given[name] - gradient).abs().max() <= 1e-5 * max(1, gradient.abs().max()), name


def test_rationales_are_read_whatever_the_weights(encoder, rows):
    """The embedding of training is that behind the rationale, also where writing it is not trained."""
    batch = columns(encoder, rows)
    both, one = (ExplicitCoTLoss(encoder, rationale_weight=weight)(batch) for weight in (1, 0))
    assert "rationale" not in one
    assert one["contrastive"].item() == pytest.approx(both["contrastive"].item(), abs=1e-6)
    for column in batch:
        column["rationale_ids"] = torch.full_like(column["rationale_ids"], -100)
    other = ExplicitCoTLoss(encoder, rationale_weight=0)(batch)
    assert abs(other["contrastive"].item() - one["contrastive"].item()) > 1e-4
    assert other["disc"].item() == pytest.approx(one["disc"].item(), abs=1e-5)  # stands in front of it
    for column in batch:
        del column["rationale_ids"]
    without = ExplicitCoTLoss(encoder, rationale_weight=0, disc_weight=0)(batch)
    assert without["contrastive"].item() == pytest.approx(other["contrastive"].item(), abs=1e-6)
    assert set(without) == {"contrastive"}


def test_the_collator_writes_as_the_model_is_to_write(encoder):
    collator = ExplicitCoTCollator(encoder, max_rationale_tokens=32)
    rows = [{"anchor": "q", "anchor_rationale": text} for text in ("a <gen_emb> b", "x" * 40, "")]
    said, cut, none = collator(rows)["anchor_rationale_ids"].tolist()
    gen = encoder.transformer.gen_id
    assert said.count(gen) == 1
    shown = encoder.tokenizer.decode([token for token in said if token >= 0])
    assert shown.replace("< gen", "<gen") == "<think>a <gen_emb> b</think>\n<gen_emb>"
    assert len([token for token in cut if token >= 0]) == 32
    assert gen not in cut
    assert [token for token in none if token >= 0] == [gen]  # and so it has nothing to make up at inference


def test_other_models_and_options_are_refused(encoder, thinker):
    with pytest.raises(InputError, match="explicit-cot"):
        ExplicitCoTLoss(TTEEncoder(str(thinker), device="cpu"))
    with pytest.raises(InputError, match="disc_weight"):
        ExplicitCoTLoss(encoder, disc_weight=-1)


@pytest.mark.slow
def test_a_trained_model_writes_what_it_was_taught_and_is_trained_on(checkpoint, configured, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = configured(
        "model.method=explicit-cot",
        f"model.backbone={checkpoint('qwen2_vl')}",
        "model.think_tokens=40",
        "stages.0.steps=300",
        "stages.0.learning_rate=5e-3",
        "stages.0.disc_weight=0",
        "trainer.save_steps=1000",
        "trainer.per_device_train_batch_size=8",
    )
    model = TTEEncoder(str(train(config)), device="cpu")
    colors = ("red", "green", "blue", "black")
    rationales = read_rationale(model, [f"q {color}" for color in colors])
    assert [rationale.text for rationale in rationales] == [f"<think>it is {color}</think>\n" for color in colors]
    assert {rationale.stop for rationale in rationales} == {"embed"}
    at_once = read_rationale(model, [f"{color} thing" for color in colors])  # positives, which have no rationales
    assert [(thought.text, thought.stop) for thought in at_once] == [("", "embed")] * 4
    log = json.loads((tmp_path / "out/joint/log.json").read_text())["log_history"]
    assert {"contrastive", "rationale", "disc"} <= log[0].keys()
    assert "disc" not in json.loads((tmp_path / "out/warm-up/log.json").read_text())["log_history"][0]
    card = (tmp_path / "out/model/README.md").read_text()
    assert "`trust_remote_code=True`" in card
    assert "0 to 40" in card
    again = configured(
        "model.method=explicit-cot", f"model.backbone={tmp_path / 'out/model'}", "output_dir=again", "max_steps=1"
    )
    assert TTEEncoder(str(train(again)), device="cpu").max_budget == 40


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_adapters_leave_room_for_its_tokens(checkpoint, configured, tmp_path, monkeypatch, tied):
    """Their rows are trained beside the adapters, also in an output head of its own, and everything is merged."""
    monkeypatch.chdir(tmp_path)
    folder = build(
        tmp_path / "start", backbone=checkpoint("qwen2_vl", tied=tied), method="explicit-cot", think_tokens=9
    )
    options = ("model.method=explicit-cot", f"model.backbone={folder}", "lora={rank: 2}", "max_steps=2")
    result = train(configured(*options))
    before, after = (TTEEncoder(str(each), device="cpu").transformer for each in (folder, result))
    own = sorted(after.added_token_ids)
    for matrix in ("get_input_embeddings", "get_output_embeddings"):
        old, new = (getattr(each.model, matrix)().weight for each in (before, after))
        assert (old != new).any(1).nonzero()[:, 0].tolist() == own
    assert (after.model.get_output_embeddings().weight is after.model.get_input_embeddings().weight) == tied
    changed = [
        name
        for name, weight in before.model.state_dict().items()
        if not torch.equal(weight, after.model.state_dict()[name])
    ]
    assert any("q_proj" in name for name in changed)
