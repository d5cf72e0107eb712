"""Batches as the trainer and the losses get them."""

from __future__ import annotations

import json
import logging
import pickle

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

from tte_retriever import TTEEncoder, build
from tte_retriever.errors import InputError
from tte_retriever.media import MediaLimits, VideoFrames
from tte_retriever.training.collator import item_columns
from tte_retriever.training.data import content_id, read_pairs
from tte_retriever.training.tte_flash.collator import TTECollator

K = 8


@pytest.fixture(scope="module")
def encoder():
    return TTEEncoder("tte-flash-tiny", device="cpu")


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "media"
    folder.mkdir()
    for index in range(6):
        pixels = np.random.default_rng(index).integers(0, 255, (48, 48, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def dataset(pictures, tmp_path):
    """Six rows: a picture and a question, an answer, a negative; the third answer is the first one again."""
    rows = [
        {
            "anchor": {"image": f"{index}.png", "text": "what color is the circle ?"},
            "positive": ["red", "blue", "red", "green", "yellow", "purple"][index],
            "negative_1": "two",
            "anchor_rationale": ["the circle is red", "", "red red red", "green", "yellow", "purple"][index],
            "answers": [["blue", "green"], [], ["blue"], [], [], []][index],
        }
        for index in range(6)
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_pairs(path, format="pairs", media_root=pictures)


def rows_of(dataset):
    return [dataset[index] for index in range(len(dataset))]


def test_keys_and_shapes(encoder, dataset):
    batch = TTECollator(encoder)(rows_of(dataset))
    columns = {key.split("_")[0] if not key.startswith("negative") else "negative_1" for key in batch}
    assert columns == {"anchor", "positive", "negative_1"}
    plain = encoder.preprocess([{"image": Image.new("RGB", (48, 48)), "text": "what color is the circle ?"}])
    assert set(plain) == {key[7:] for key in batch if key.startswith("anchor_")} - {
        "rationale_ids",
        "content_id",
        "answer_ids",
    }
    for column in columns:
        assert batch[f"{column}_rationale_ids"].dtype == batch[f"{column}_content_id"].dtype == torch.int64
        assert batch[f"{column}_rationale_ids"].shape[0] == 6
    assert torch.equal(batch["positive_rationale_ids"], torch.full((6, 1), -100))
    assert "positive_answer_ids" not in batch


def test_rationales_are_ended_padded_and_cut(encoder, dataset):
    tokenizer = encoder.tokenizer
    ids = TTECollator(encoder)(rows_of(dataset))["anchor_rationale_ids"]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.decode(ids[0][ids[0] >= 0]) == " the circle is red<|im_end|>"
    assert (ids[1] == -100).all()
    assert (ids[2] == end).sum() == 1
    cut = TTECollator(encoder, max_rationale_tokens=2)(rows_of(dataset))["anchor_rationale_ids"]
    assert torch.equal(cut[0], ids[0, :2])  # cut in the middle: no end
    assert cut[3, :2].tolist() == ids[3, :2].tolist()

    pieces = {"anchor": "a", "anchor_rationale": "red", "anchor_answer": "green"}
    joined, alone = (
        TTECollator(encoder)([row])["anchor_rationale_ids"] for row in (pieces, {**pieces, "anchor_rationale": ""})
    )
    assert encoder.tokenizer.decode(joined[0]) == " red\ngreen<|im_end|>"
    assert encoder.tokenizer.decode(alone[0]) == " green<|im_end|>"
    spelt = TTECollator(encoder)([{"anchor": "a", "anchor_rationale": "red <|im_end|> <|think_0|>"}])[
        "anchor_rationale_ids"
    ][0]
    assert (spelt == end).sum() == 1
    assert spelt[-1] == end
    assert not torch.isin(spelt, torch.tensor(encoder.thought.think_ids)).any()


def test_equal_candidates_have_equal_ids(encoder, dataset):
    batch = TTECollator(encoder)(rows_of(dataset))
    ids = batch["positive_content_id"]
    assert [int(each) for each in ids] == [content_id(t) for t in ("red", "blue", "red", "green", "yellow", "purple")]
    assert len(set(batch["negative_1_content_id"].tolist())) == 1
    assert len(set(batch["anchor_content_id"].tolist())) == 6
    answers = batch["anchor_answer_ids"]
    assert answers.tolist()[:3] == [[ids[1], ids[3]], [-1, -1], [ids[1], -1]]


def test_given_ids_win(encoder):
    rows = [
        {"anchor": "a", "positive": "red", "positive_id": "1", "answers": ["2"]},
        {"anchor": "b", "positive": "crimson", "positive_id": "2", "answers": []},
        {"anchor": "c", "positive": "red", "positive_id": "2", "answers": None},
        {"anchor": "d", "positive": "1", "positive_id": "", "answers": ["red"]},
    ]
    batch = TTECollator(encoder)(rows)
    first, second, third, fourth = batch["positive_content_id"].tolist()
    assert second == third
    assert len({first, second, fourth}) == 3  # the text "1" is not the id 1
    assert batch["anchor_answer_ids"].tolist() == [[second], [-1], [-1], [content_id("red")]]


def test_prompts_by_column_and_by_dataset(encoder):
    row = {"anchor": "two", "positive": "two"}
    plain = TTECollator(encoder)([row])
    assert torch.equal(plain["anchor_input_ids"], plain["positive_input_ids"])
    by_column = TTECollator(encoder, prompts={"anchor": "find"})([row])
    assert by_column["anchor_input_ids"].shape[1] > plain["anchor_input_ids"].shape[1]
    assert torch.equal(by_column["positive_input_ids"], plain["positive_input_ids"])
    nested = TTECollator(encoder, prompts={"x": {"anchor": "find"}, "y": {"positive": "find"}})
    assert torch.equal(nested([row | {"dataset_name": "x"}])["anchor_input_ids"], by_column["anchor_input_ids"])
    assert nested([row | {"dataset_name": "y"}])["dataset_name"] == "y"


def thoughts(encoder, batch, column="anchor"):
    ids = torch.tensor(encoder.thought.think_ids)
    return set(torch.isin(batch[f"{column}_input_ids"], ids).sum(1).tolist())


def test_budgets(encoder):
    rows = [[{"anchor": f"{number} circles", "positive": "two"}, {"anchor": "red", "positive": "blue"}] for number in range(60)]  # fmt: skip
    assert thoughts(encoder, TTECollator(encoder)(rows[0])) == {K}
    assert thoughts(encoder, TTECollator(encoder, think_budget=3)(rows[0])) == {3}

    def drawn(seed):
        collate = TTECollator(encoder, nested_budgets=True, seed=seed)
        batches = [collate(each) for each in rows]
        found = [thoughts(encoder, batch) for batch in batches]
        assert [thoughts(encoder, batch, "positive") for batch in batches] == found
        assert all(len(each) == 1 for each in found)  # one budget per batch
        return [each.pop() for each in found]

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)
    assert set(drawn(0)) == set(range(K + 1))
    capped = TTECollator(encoder, think_budget=2, nested_budgets=True)
    assert set.union(*(thoughts(encoder, capped(each)) for each in rows)) == {0, 1, 2}


def test_a_row_broken_at_the_last_moment_is_replaced_by_the_next(encoder, dataset, pictures, tmp_path, caplog):
    (pictures / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    (pictures / "5.png").unlink()
    out = tmp_path / "quarantine.jsonl"
    with caplog.at_level(logging.WARNING):
        batch = TTECollator(encoder, quarantine=out)(rows_of(dataset))
    sound = [dataset[index] for index in (0, 2, 2, 3, 4, 0)]  # each by the next one, the last by the first
    expected = TTECollator(encoder)(sound)
    assert batch.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in batch.items() if isinstance(value, torch.Tensor))
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["file"], row["line"]) for row in found] == [(str(tmp_path / "train.jsonl"), line) for line in (2, 6)]
    assert "corrupt" in found[0]["reason"]
    assert "train.jsonl:2 cannot be used" in caplog.text


def test_a_row_too_long_for_the_model_is_replaced(encoder, dataset):
    rows = rows_of(dataset)[:2]
    rows[1] |= {"positive": {"text": "red " * 5000, "image": Image.new("RGB", (48, 48))}}
    batch = TTECollator(encoder)(rows)
    assert batch["positive_content_id"].tolist() == [content_id("red")] * 2


def test_a_batch_with_nothing_usable_raises(encoder, dataset, pictures):
    for path in pictures.iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"No row of the batch can be used; the first: .*0\.png"):
        TTECollator(encoder)(rows_of(dataset))


def test_answers_are_a_list(encoder):
    with pytest.raises(InputError, match="answers is of type str"):
        TTECollator(encoder)([{"anchor": "a", "positive": "b", "answers": "red"}])


def test_limits_are_those_of_the_model(dataset):
    strict = TTEEncoder("tte-flash-tiny", device="cpu", media_limits=MediaLimits(max_pixels=100))
    with pytest.raises(InputError, match="max_pixels"):
        TTECollator(strict)(rows_of(dataset))


def test_items_drawn_on_the_fly(encoder):
    """No file, no Arrow: a transform draws pixels, and the collator takes what ``encode`` takes."""
    frame = np.zeros((48, 48, 3), np.uint8)
    clip = VideoFrames((Image.fromarray(frame),) * 2, (0.0, 0.5), 0.0, 1.0)
    kinds = [frame, Image.fromarray(frame), {"image": frame, "text": "two"}, clip, "two", np.stack([frame] * 2)]

    def draw(rows):
        return {
            "anchor": [kinds[seed % len(kinds)] for seed in rows["seed"]],
            "positive": [f"{seed} circles" for seed in rows["seed"]],
            "positive_rationale": ["red"] * len(rows["seed"]),
        }

    lazy = datasets.Dataset.from_dict({"seed": range(6)}).with_transform(draw)
    batch = TTECollator(encoder)(rows_of(lazy))
    assert torch.equal(batch["anchor_input_ids"], encoder.preprocess(kinds)["input_ids"])
    ids = batch["anchor_content_id"].tolist()
    assert len(set(ids)) == 6
    assert batch["positive_rationale_ids"].shape[0] == 6


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["anchor", "answer_rationale"], "'answer_rationale' is about 'answer'"),
        (["anchor", "positive", "video_id"], "'video_id' is about 'video'"),
        (["anchor", "anchor_2"], "would be mixed up"),
        (["source", "answers"], "no item"),
    ],
)
def test_columns_that_make_no_sense(names, complaint):
    with pytest.raises(InputError, match=complaint):
        item_columns(names)


@pytest.mark.parametrize("options", [{"think_budget": K + 1}, {"think_budget": -1}, {"max_rationale_tokens": 0}])
def test_arguments_that_make_no_sense(encoder, options):
    with pytest.raises(InputError):
        TTECollator(encoder, **options)


class SpyingLoss(CachedMultipleNegativesRankingLoss):
    """Takes away what the model does not know, as TTELoss does, and remembers it."""

    seen: list[dict[str, torch.Tensor]] = []  # noqa: RUF012

    def forward(self, sentence_features, labels=None):
        names = ("rationale_ids", "content_id", "answer_ids")
        features = [dict(each) for each in sentence_features]
        self.seen += [{name: each.pop(name) for name in names if name in each} for each in features]
        return super().forward(features, labels)


class CardlessTrainer(SentenceTransformerTrainer):
    """The stock trainer; its model card alone would run the model on empty rationales and show training rows."""

    def add_model_card_callback(self, default_args_dict):
        pass


@pytest.mark.parametrize(
    ("family", "workers"),
    [
        ("tte-flash-tiny", 1),
        *(pytest.param(name, 0, marks=pytest.mark.slow) for name in ("tte-flash-tiny", "qwen2_vl", "qwen3_vl")),
    ],
)
def test_the_real_trainer_delivers_it(family, workers, checkpoint, dataset, tmp_path):
    model = family
    if family != "tte-flash-tiny":
        model = tmp_path / "model"
        build(model, backbone=checkpoint(family), think_tokens=4)
    encoder = TTEEncoder(str(model), device="cpu")
    loss = SpyingLoss(encoder, mini_batch_size=2)
    loss.seen = []
    args = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "out"),
        per_device_train_batch_size=3,
        max_steps=2,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        dataloader_num_workers=workers,
    )
    trainer = CardlessTrainer(
        encoder, args, train_dataset=dataset, loss=loss, data_collator=TTECollator(encoder, nested_budgets=True)
    )
    assert np.isfinite(trainer.train().training_loss)
    first, second, third = loss.seen[:3]
    assert set(first) == {"rationale_ids", "content_id", "answer_ids"}
    assert set(second) == set(third) == {"rationale_ids", "content_id"}
    anchors = {int(each) for features in loss.seen[::3] for each in features["content_id"]}
    assert len(anchors) == 6  # two steps of three, and every row once


def test_it_travels_to_a_worker(encoder, dataset):
    collate = pickle.loads(pickle.dumps(TTECollator(encoder, nested_budgets=True, seed=3)))
    here = TTECollator(encoder, nested_budgets=True, seed=3)(rows_of(dataset))
    assert torch.equal(collate(rows_of(dataset))["anchor_input_ids"], here["anchor_input_ids"])
