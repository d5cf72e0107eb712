"""Mini-MMEB: its items, its metrics with ties, and models of all kinds."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import chain, pairwise, product

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from sklearn.metrics import ndcg_score
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from tte_retriever import TTEEncoder, TTEError, model_path
from tte_retriever.errors import InputError
from tte_retriever.evaluation.mini_mmeb import SPLITS, TASKS, evaluate
from tte_retriever.evaluation.mini_mmeb import running as runner
from tte_retriever.evaluation.mini_mmeb.metrics import METRICS, chance, interval, ndcg, prior_only
from tte_retriever.small_world.vocabulary import HELD_OUT_FACTS, HELD_OUT_LOOKS

COUNT = 40
GOLDEN = "366cd0403e0ccfba"
ANSWERED_FROM_A_LIST = {"image-classification", "image-question-answering", "video-classification"}
ANSWERED_FROM_A_LIST |= {"video-question-answering"}


@pytest.fixture(scope="module")
def encoder():
    return TTEEncoder("tte-flash-tiny", device="cpu")


class Drawn(dict):
    """Name of a task and split → pools, which are drawn when they are first used."""

    def __missing__(self, key):
        name, split = key
        self[key] = next(task for task in TASKS if task.name == name).pools(split, 0, COUNT)
        return self[key]


@pytest.fixture(scope="module")
def drawn():
    return Drawn()


def entries(pools):
    return chain.from_iterable((*pool.queries, *pool.candidates) for pool in pools)


# Items ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_same_seed_gives_the_same_items_everywhere(drawn):
    """A hash of texts, contents and gains; pixels depend on the version of Pillow."""
    total = hashlib.sha256()
    for name, split in product((task.name for task in TASKS), SPLITS):
        total.update(f"{name} {split}".encode())
        for pool in drawn[name, split]:
            for entry in (*pool.queries, *pool.candidates):
                total.update(f"{sorted(entry.item)} {entry.item.get('text')} {entry.content}\n".encode())
            total.update(pool.gains.tobytes())
    assert total.hexdigest()[:16] == GOLDEN


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_another_seed_gives_other_items(task, drawn):
    def texts(pools):
        return [(entry.item.get("text"), entry.content) for entry in entries(pools)]

    assert texts(task.pools("iid", 1, COUNT)) != texts(drawn[task.name, "iid"])


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_queries_are_as_many_as_wanted_and_can_be_answered(task, split, drawn):
    pools = drawn[task.name, split]
    assert sum(len(pool.queries) for pool in pools) == COUNT
    for pool in pools:
        assert pool.gains.shape == (len(pool.queries), len(pool.candidates))
        assert pool.gains.max(1).min() == 1
        assert (pool.gains.min(1) == 0).all()
        assert {tuple(sorted(query.item)) for query in pool.queries} == {task.query}
        assert {tuple(sorted(candidate.item)) for candidate in pool.candidates} == {task.candidate}
        assert ndcg(pool.gains, pool.gains, METRICS[task.metric]) == pytest.approx(1)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_splits_share_no_content(task, drawn):
    contents = [{entry.content for entry in entries(drawn[task.name, split])} - {""} for split in SPLITS]
    looks = {f"{size} {color} {shape}" for size in ("small", "big") for shape, color in HELD_OUT_LOOKS}
    if task.name == "grounding":  # crops of one thing are too few to be of one split
        contents = [{content for content in each if content.count(" ") > 2} for each in contents]
    assert all(contents)
    assert not contents[0] & contents[1]
    assert not contents[0] & contents[2]
    assert not contents[1] & contents[2]
    signs = looks | {f"{key} {value}" for key, value in HELD_OUT_FACTS}
    for split, each in zip(SPLITS, contents, strict=True):
        assert all(any(sign in content for sign in signs) == (split == "held-out") for content in each)


@pytest.mark.parametrize("name", sorted(ANSWERED_FROM_A_LIST))
def test_answers_are_balanced(name, drawn):
    (pool,) = drawn[name, "iid"]
    right = pool.gains.sum(0)
    assert right.max() <= -(-COUNT // np.count_nonzero(right))
    assert np.count_nonzero(right) == min(
        COUNT, {"image-classification": 30, "image-question-answering": 26}.get(name, COUNT), len(right)
    )


def test_distractors_need_the_reasoning(drawn):
    """It is not enough to know which candidates belong to a query without reading it."""
    (pool,) = drawn["composed-image-retrieval", "iid"]
    contents = [candidate.content for candidate in pool.candidates]
    assert all(query.content in contents for query in pool.queries)  # the picture before the edit

    for pool in drawn["grounding", "iid"]:
        present, absent = ({c.content for c in part} for part in (pool.candidates[:5], pool.candidates[5:]))
        assert not present & absent
        for one, other in zip(pool.candidates[:5], pool.candidates[5:], strict=True):
            assert sum(a != b for a, b in zip(one.content.split(), other.content.split(), strict=True)) == 1

    for pool in drawn["moment-retrieval", "iid"]:
        states = [candidate.content.split(" | ") for candidate in pool.candidates]
        assert all(before[-1] == after[0] for before, after in pairwise(states))  # one video

    (pool,) = drawn["video-retrieval", "iid"]
    starts = [candidate.content.split(" | ")[0] for candidate in pool.candidates]
    assert all(starts.count(start) >= 4 for start in starts)

    (pool,) = drawn["document-retrieval", "iid"]
    for gains, query in zip(pool.gains, pool.queries, strict=True):
        title = " ".join(query.item["text"].split()[1:3])
        same_title = [title in candidate.content for candidate in pool.candidates]
        assert sum(same_title) >= 2 * gains.sum()
        assert gains.sum() >= 3


# Metrics -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 5])
def test_ndcg_is_that_of_the_textbook(k):
    random = np.random.default_rng(0)
    gains, similarities = random.integers(0, 3, (20, 12)), random.normal(size=(20, 12))
    order = np.argsort(-similarities, axis=1)
    discounts = 1 / np.log2(np.arange(12) + 2) * (np.arange(12) < k)
    ranked, ideal = np.take_along_axis(gains, order, 1), -np.sort(-gains, axis=1)
    assert ndcg(similarities, gains, k) == pytest.approx((ranked @ discounts) / (ideal @ discounts))


def test_hit_at_1_is_a_right_answer_in_the_first_place():
    gains = np.array([[0, 1, 1], [1, 0, 0], [0, 0, 1]])
    assert ndcg(np.array([[0.1, 0.9, 0.2], [0.1, 0.2, 0.3], [0.0, 0.0, 0.5]]), gains, 1).tolist() == [1, 0, 1]


@pytest.mark.parametrize("k", [1, 5])
def test_chance_is_the_mean_over_random_rankings(k):
    random = np.random.default_rng(0)
    gains = np.array([[1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0]])
    sampled = np.mean([ndcg(random.normal(size=gains.shape), gains, k) for _ in range(500)], axis=0)
    assert chance(gains, k) == pytest.approx(sampled, abs=0.07)
    if k == 1:
        assert chance(gains, k) == pytest.approx([1 / 7, 3 / 7])


def test_prior_only_is_the_best_ranking_that_is_the_same_for_all():
    gains = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 1]])
    from itertools import permutations

    for k in (1, 2, 3):
        fixed = (np.broadcast_to(-np.argsort(order), gains.shape) for order in permutations(range(4)))
        assert prior_only(gains, k).mean() == pytest.approx(max(ndcg(ranking, gains, k).mean() for ranking in fixed))


def test_ties_do_not_help_and_rounding_does_not_break_them():
    gains = np.eye(6, dtype=int)
    almost_one = 1 + np.random.default_rng(0).normal(0, 1e-9, (6, 6))
    assert ndcg(almost_one, gains, 1) == pytest.approx(1 / 6)
    assert ndcg_score(gains, np.eye(6), k=1) == 1


def test_the_interval_is_that_of_the_mean():
    hits = np.array([1.0] * 360 + [0.0] * 40)
    low, high = interval(hits)
    assert (low, high) == pytest.approx((0.9 - 0.0294, 0.9 + 0.0294), abs=0.004)  # 1.96 standard errors
    assert interval(np.ones(9)) == (1, 1)


# Runs ----------------------------------------------------------------------------------------------------------------


class Constant(TTEEncoder):
    """A model that returns the same vector for every item."""

    value = 0.1

    def encode(self, inputs, **kwargs):
        return np.full((len(inputs), 12), self.value, np.float32)


@pytest.fixture(scope="module")
def constant():
    return Constant("tte-flash-tiny", device="cpu")


@pytest.mark.slow
def test_a_model_with_constant_vectors_scores_chance(constant):
    report = evaluate(constant, queries=30)
    for task in report.tasks:
        assert task.score == pytest.approx(task.chance)
        assert task.chance <= task.prior_only + 1e-9 < 0.5
        assert task.n == 30


def test_vectors_with_nan_are_not_ranked(constant, monkeypatch):
    monkeypatch.setattr(Constant, "value", np.nan)
    with pytest.raises(TTEError, match="NaN"):
        evaluate(constant, queries=4, tasks=["grounding"])


@pytest.mark.slow
def test_stock_classes_score_as_our_encoder_does(encoder):
    stock = SentenceTransformer(model_path("tte-flash-tiny"), device="cpu")
    names = ["image-question-answering", "grounding", "video-question-answering", "moment-retrieval"]
    ours, theirs = (evaluate(model, queries=20, tasks=names) for model in (encoder, stock))
    assert ours.fingerprint == theirs.fingerprint
    assert (ours.think_budget, theirs.think_budget) == (8, None)
    for one, other in zip(ours.tasks, theirs.tasks, strict=True):
        assert one == other
        assert one.per_query.tolist() == other.per_query.tolist()
    assert max(one.score for one in ours.tasks) > 0.5


def test_the_think_budget_reaches_the_model(encoder):
    shallow, deep = (
        evaluate(encoder, queries=80, tasks=["video-question-answering"], think_budget=budget) for budget in (0, 8)
    )
    assert (shallow.think_budget, deep.think_budget) == (0, 8)
    assert deep.mean > shallow.mean + 0.1  # as its card says
    with pytest.raises(InputError, match="0 to 8"):
        evaluate(encoder, queries=4, tasks=["grounding"], think_budget=9)


def test_prompts_of_the_model_are_used(encoder):
    prompted = TTEEncoder("tte-flash-tiny", device="cpu")
    prompted.prompts = {"query": "what color ?", "document": ""}
    name = ["text-to-image-retrieval"]
    plain, with_prompt = (evaluate(model, queries=40, tasks=name) for model in (encoder, prompted))
    assert plain.tasks[0].per_query.tolist() != with_prompt.tasks[0].per_query.tolist()
    assert plain.fingerprint != with_prompt.fingerprint


def test_a_model_that_cannot_take_a_task_is_refused():
    words = Tokenizer(WordLevel({"[UNK]": 0, "red": 1, "circle": 2}, unk_token="[UNK]"))
    text_only = SentenceTransformer(modules=[StaticEmbedding(words, embedding_dim=4)], device="cpu")
    with pytest.raises(InputError, match=r"takes text, but image-classification is image \+ text → text"):
        evaluate(text_only)
    with pytest.raises(InputError, match="SentenceTransformer takes none"):
        evaluate(SentenceTransformer(model_path("tte-flash-tiny")), tasks=["grounding"], think_budget=2)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"split": "test"}, "there are iid, held-out, validation"),
        ({"queries": 0}, "positive"),
        ({"tasks": ["grounding", "cooking"]}, "'cooking' is no task of mini-mmeb; there are image-classification"),
        ({"tasks": []}, "No task is named"),
    ],
)
def test_arguments_out_of_range_are_refused(encoder, arguments, complaint):
    with pytest.raises(InputError, match=complaint):
        evaluate(encoder, **arguments)


# Cache ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def encoded(monkeypatch):
    """How many times items were encoded."""
    calls = []

    def counting(model, items, role, budget):
        calls.append(role)
        return embed(model, items, role, budget)

    embed = runner.embed
    monkeypatch.setattr(runner, "embed", counting)
    return calls


def test_the_cache_serves_the_same_model_and_no_other(tmp_path, encoded):
    model = TTEEncoder("tte-flash-tiny", device="cpu")
    run = {"queries": 10, "tasks": ["grounding"], "cache": tmp_path}
    first = evaluate(model, **run)
    assert encoded == ["query", "document"]
    assert evaluate(model, **run) == first
    assert evaluate(TTEEncoder("tte-flash-tiny", device="cpu"), **run) == first
    assert len(encoded) == 2
    for change in ({"seed": 1}, {"split": "held-out"}, {"think_budget": 2}, {"queries": 15}):
        before = len(encoded)
        assert evaluate(model, **{**run, **change}) != first
        assert len(encoded) == before + 2
    with torch.no_grad():
        next(model.parameters()).add_(0.5)
    before = len(encoded)
    changed = evaluate(model, **run)
    assert len(encoded) == before + 2
    assert changed.fingerprint != first.fingerprint
    assert changed == evaluate(model, **{**run, "cache": None})


def test_the_cache_depends_on_the_pixels(tmp_path, encoded, encoder, monkeypatch):
    """The same seed may draw other items in another version."""
    run = {"queries": 5, "tasks": ["grounding"], "cache": tmp_path}
    evaluate(encoder, **run)
    task = next(task for task in TASKS if task.name == "grounding")

    def other(split, seed, count):
        pools = task.draw(split, seed, count)
        shape = pools[0].queries[0].item["image"].shape
        red = np.asarray(Image.new("RGB", shape[:2], "red"))
        queries = [replace(query, item={**query.item, "image": red}) for query in pools[0].queries]
        return [replace(pools[0], queries=queries), *pools[1:]]

    monkeypatch.setattr(runner, "tasks_named", lambda names: (replace(task, draw=other),))
    evaluate(encoder, **run)
    assert encoded == ["query", "document", "query"]


def test_a_cached_file_that_is_broken_is_named(tmp_path, encoder):
    run = {"queries": 5, "tasks": ["grounding"], "cache": tmp_path}
    evaluate(encoder, **run)
    files = list(tmp_path.rglob("*.npy"))
    assert len(files) == 2
    assert not list(tmp_path.rglob(".partial-*"))
    for file in files:
        file.write_bytes(b"")
    with pytest.raises(InputError, match="delete the file"):
        evaluate(encoder, **run)
