"""The small world: deterministic, disjoint between splits, and true to what it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tte_retriever.errors import InputError
from tte_retriever.media import load_image, load_video, probe_video
from tte_retriever.small_world import ANSWERS, FAMILIES, SPLITS, Clip, Page, Scene, draw_pairs
from tte_retriever.small_world.files import write_gif, write_image, write_mp4, write_pdf
from tte_retriever.small_world.scoring import Score, candidates_of
from tte_retriever.small_world.splits import split_of
from tte_retriever.small_world.vocabulary import HELD_OUT_FACTS, HELD_OUT_LOOKS

families = st.sampled_from(FAMILIES)
splits = st.sampled_from(SPLITS)
seeds = st.integers(0, 2**31)


def contents_of(pair):
    return [content for content in (pair.shown, pair.content) if isinstance(content, Scene | Clip | Page)]


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


@settings(max_examples=40, deadline=None)
@given(family=families, split=splits, seed=seeds)
def test_a_pair_is_a_function_of_its_seed(family, split, seed):
    first, again = (draw_pairs(family, 2, seed=seed, split=split) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        assert same(a.query, b.query)
        assert same(a.positive, b.positive)
        assert (a.kind, a.content, a.query_rationale) == (b.kind, b.content, b.query_rationale)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(family=families, split=splits, seed=seeds)
def test_content_belongs_to_its_split_and_to_no_other(family, split, seed):
    for pair in draw_pairs(family, 4, seed=seed, split=split):
        assert all(split_of(content) == split for content in contents_of(pair))


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(family=families, seed=seeds)
def test_held_out_combinations_appear_in_their_split_only(family, seed):
    for split in SPLITS:
        for pair in draw_pairs(family, 2, seed=seed, split=split):
            for content in contents_of(pair):
                assert content.held_out == (split == "held-out")
                words = [cell for cell in content.cells if cell]
                drawn = {(w[2], w[1]) for w in words if len(w) == 3} & HELD_OUT_LOOKS
                drawn |= {(w[0], w[1]) for w in words if len(w) == 2} & HELD_OUT_FACTS
                assert bool(drawn) == (split == "held-out")


@settings(max_examples=60, deadline=None)
@given(family=families, split=splits, seed=seeds)
def test_the_positive_answers_the_query(family, split, seed):
    for pair in draw_pairs(family, 4, seed=seed, split=split):
        assert pair.accepts(pair.content)
        if family in ANSWERS:
            assert pair.positive["text"] in ANSWERS[family]
            assert pair.query_rationale.endswith(f"so {pair.positive['text']}")


def test_edits_of_one_picture_are_hard_negatives_of_each_other():
    pairs = draw_pairs("edit", 40, seed=1, split="test")
    for group in range(10):
        edits = pairs[4 * group : 4 * group + 4]
        assert len({pair.shown for pair in edits}) == 1
        assert len({pair.content for pair in edits}) == 4
        assert edits[0].shown not in {pair.content for pair in edits}
    _, contents = candidates_of(pairs)
    assert len(contents) == 50


@pytest.mark.parametrize("family", FAMILIES)
def test_seeds_and_splits_draw_different_items(family):
    drawn = [draw_pairs(family, 3, seed=seed, split=split) for seed in (0, 1) for split in ("train", "test")]
    rationales = [tuple(pair.query_rationale for pair in pairs) for pairs in drawn]
    assert len(set(rationales)) == len(rationales)


@pytest.mark.slow
def test_questions_are_not_answered_by_a_blind_guess():
    """No single answer may be right for more than a fifth of the questions."""
    for family in ANSWERS:
        answers = [pair.positive["text"] for pair in draw_pairs(family, 300, seed="prior", split="test")]
        assert max(answers.count(answer) for answer in set(answers)) < 0.2 * len(answers)


def test_files_show_what_was_drawn(tmp_path):
    scene = draw_pairs("caption", 1, seed="file", split="test")[0].positive["image"]
    states = draw_pairs("moment", 1, seed="file", split="test")[0].positive["video"][::2]
    assert np.array_equal(np.asarray(load_image(write_image(tmp_path / "a.png", scene))), scene)
    jpeg = np.asarray(load_image(write_image(tmp_path / "a.jpg", scene)), np.float32)
    assert np.abs(jpeg - scene).mean() < 6
    for video in (write_mp4(tmp_path / "a.mp4", states), write_gif(tmp_path / "a.gif", states)):
        assert probe_video(video).duration_s == pytest.approx(6)
        frames = load_video(video).frames
        assert np.abs(np.asarray(frames[0], np.float32) - states[0]).mean() < 6
        assert np.abs(np.asarray(frames[-1], np.float32) - states[-1]).mean() < 6
    pages = [pair.positive["image"] for pair in draw_pairs("page", 3, seed="file", split="test")]
    assert write_pdf(tmp_path / "a.pdf", pages).read_bytes().count(b"/Type /Page\n") == 3


def test_an_image_of_another_suffix_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"\.png"):
        write_image(tmp_path / "a.tga", np.zeros((4, 4, 3), np.uint8))


def test_words_fit_into_their_cells():
    """A page is read from pixels: no two different words may look the same."""
    from tte_retriever.small_world import vocabulary as v
    from tte_retriever.small_world.drawing import _word_mask

    words = (*v.KEYS, *v.VALUES, *v.TITLE_FIRST, *v.TITLE_SECOND)
    masks = [_word_mask(word) for word in words]
    assert len(set(words)) == len(words)
    for i, mask in enumerate(masks):
        assert mask.max() > 0.5
        assert all(np.abs(mask - other).sum() > 5 for other in masks[:i])


def test_wilson_interval_holds_the_rate():
    score = Score("caption", "test", 90, 100, 0.01)
    low, high = score.interval
    assert low == pytest.approx(0.8256, abs=1e-3)  # the textbook value for 90 of 100
    assert high == pytest.approx(0.9448, abs=1e-3)
