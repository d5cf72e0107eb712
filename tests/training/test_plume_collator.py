"""What PLUME has to write in every phase, as token ids."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tte_retriever import TTEEncoder, build
from tte_retriever.errors import InputError
from tte_retriever.training.plume.collator import PlumeCollator
from tte_retriever.training.plume.curriculum import Curriculum

CURRICULUM = Curriculum(ratios=(0, 0.5, 1), segments=2, answer_drop=0.5)
ROW = {
    "anchor": "what is it?",
    "anchor_rationale": "It is red. It is a cat.",
    "anchor_answer": "a cat",
    "positive": "cat",
}


@pytest.fixture(scope="module")
def encoder(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("plume") / "m"
    build(out, backbone=checkpoint("qwen3_vl"), method="plume", think_tokens=2, instruction="")
    return TTEEncoder(str(out), device="cpu")


def texts(encoder, row, column="anchor", **options):
    ids = PlumeCollator(encoder, curriculum=CURRICULUM, **options)([row])[f"{column}_rationale_ids"]
    assert ids.shape[:2] == (1, len(CURRICULUM.phases))
    return [encoder.tokenizer.decode(phase[phase >= 0]) for phase in ids[0]]


END = "<gen_emb><|im_end|>\n"


def test_what_is_latent_is_not_written(encoder):
    assert texts(encoder, ROW) == [
        f"<eot>It is red. It is a cat.</think><answer>a cat</answer>\n{END}",
        f"<eot>It is a cat.</think><answer>a cat</answer>\n{END}",
        f"<eot></think><answer>a cat</answer>\n{END}",
        f"<eot></think>\n{END}",
    ]


def test_the_last_phase_begins_with_the_suffix_of_inference(encoder):
    ids = PlumeCollator(encoder, curriculum=CURRICULUM)([ROW])["anchor_rationale_ids"][0, -1]
    suffix = encoder[0].suffix_ids
    assert torch.equal(ids[: len(suffix)], suffix)


def test_the_answer_of_both_sides_is_the_positive_unless_a_row_says_more(encoder):
    row = {"anchor": "q", "positive": {"text": "cat"}, "positive_answer": "a small cat", "negative_1": "dog"}
    found = {column: texts(encoder, row, column)[0] for column in ("anchor", "positive", "negative_1")}
    assert found == {
        "anchor": f"<eot></think><answer>cat</answer>\n{END}",
        "positive": f"<eot></think><answer>a small cat</answer>\n{END}",
        "negative_1": f"<eot></think>\n{END}",
    }


def test_control_tokens_in_a_rationale_stay_text_and_long_ones_are_cut(encoder):
    sly = {**ROW, "anchor_rationale": "say <gen_emb> now", "anchor_answer": "<|im_end|>"}
    ids = PlumeCollator(encoder, curriculum=CURRICULUM)([sly])["anchor_rationale_ids"][0, 0]
    for token in ("<gen_emb>", "<|im_end|>"):
        assert (ids == encoder.tokenizer.convert_tokens_to_ids(token)).sum() == 1
    assert texts(encoder, ROW, max_rationale_tokens=5)[0].startswith("<eot>It is</think>")


def test_a_batch_of_one_column_has_no_answer_but_its_own(encoder):
    assert texts(encoder, {"anchor": "q", "anchor_rationale": "It is."})[0] == f"<eot>It is.</think>\n{END}"


def test_a_model_that_reads_another_suffix_is_refused(encoder, monkeypatch):
    monkeypatch.setattr(encoder[0], "options", replace(encoder[0].options, suffix="<eot><gen_emb>"))
    with pytest.raises(InputError, match="<eot><gen_emb>"):
        PlumeCollator(encoder, curriculum=CURRICULUM)
