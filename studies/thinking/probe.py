"""Probe the thoughts of the study's checkpoints: can they be decoded, and does the embedding depend on them?

    python -m studies.thinking.probe studies/thinking/config.yaml --arms tte-flash plume --seeds 0

Needs the config and the checkpoints of ``run.py``, and draws new test pairs of every family of the small world
(``--set probe_queries=300`` of each). Runs without a checkpoint and runs that are probed already are skipped. Each run is one
record of ``results_file`` with these keys:

* ``condition, arm, training_seed, method, think_tokens, fingerprint, split, queries``;
* ``interventions``, rows of ``family, intervention, n, cosine, hit@1, change``, the last three with a ``_ci95``: each query is
  embedded with another thought and ranked over unchanged candidates. ``cosine`` compares its vector with the one of its own
  thought, ``change`` is the difference in hit@1. ``none`` is the unchanged model. Think tokens and latent steps are replaced
  in every layer by those of another query (``swap``), by their own in another order (``shuffle``, if there are several), by
  zeros (``zero``) or by the mean over the queries (``mean``). For latent steps, ``<name>-inputs`` replaces only their inputs.
  A written rationale is replaced by that of another query (``swap``), its own words in another order (``shuffle``), no words
  (``empty``) or the true rationale (``gold``);
* ``decoding``, rows of ``family, n, exact, free, forced`` with intervals, where a backbone was trained to write rationales:
  the share of rationales that are right word for word, and the shares of right words when the model writes freely and when
  it predicts each word after the true ones before it;
* ``word_kinds``, rows of ``family, kind, n, free, forced``, by kind of word;
* ``answers``, rows of ``family, n, said, retrieved, agree, agree_by_chance, agree_given_gold`` for families of questions: how
  often the answer at the end of the written rationale is right, how often the retrieved one is, and how often the two are
  equal; then how often they would be equal if they were independent, and if they depended only on the right answer;
* ``examples``, rows of ``family, gold, said``;
* ``similarity``, rows of ``family, n, embeddings, within, between``: mean cosine between the embeddings of different queries,
  between the last hidden states of different steps of one query, and between those of one step of different queries;
* ``effective_rank_embeddings`` and ``effective_rank_thought``, over the queries of all families and, for thoughts, all steps.

What does not apply is an empty list or ``null``. Intervals are 95 % bootstrap intervals over queries.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from studies.thinking.probing.agreement import agreement_by_chance
from studies.thinking.probing.asking import Asked
from studies.thinking.probing.geometry import effective_rank, mean_cosine
from studies.thinking.probing.ways import OWN, WAYS, Thought
from studies.thinking.records import ResultsFile
from studies.thinking.study import StudyConfig, Task, launch_study
from tte_retriever import TTEEncoder
from tte_retriever.evaluation.mini_mmeb.metrics import interval
from tte_retriever.small_world import ANSWERS, FAMILIES, Split
from tte_retriever.small_world.word_kinds import WORD_KINDS, word_kinds
from tte_retriever.training.config import RESULT
from tte_retriever.training.config_files import read_config

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tte_retriever.training.config import TrainConfig

SPLIT: Split = "test"
SEED = "probes"
EXAMPLES = 3
LISTS = ("interventions", "decoding", "word_kinds", "answers", "examples", "similarity")


def rounded(value: float | None) -> float | None:
    """As it is written down."""
    return None if value is None else round(value, 4)


def estimate(name: str, values: np.ndarray | list[Any]) -> dict[str, Any]:
    """The mean and its interval, as two entries of a row."""
    array = np.asarray(values, float)
    return {name: round(float(array.mean()), 4), f"{name}_ci95": [round(each, 4) for each in interval(array)]}


def intervention_rows(asked: Asked, thought: Thought) -> Iterator[dict[str, Any]]:
    """Every thought that was put in the place of the model's own."""
    own = thought.vectors[OWN]
    for name, vectors in thought.vectors.items():
        row = {"family": asked.family, "intervention": name, "n": len(own)}
        hits = asked.hits(vectors)
        row |= estimate("cosine", F.cosine_similarity(own, vectors).numpy()) | estimate("hit@1", hits)
        yield row | estimate("change", hits - asked.hits(own))


def rationale_rows(asked: Asked, thought: Thought) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is said of the rationales of a family, with the name of the list that it belongs to."""
    head, said = {"family": asked.family}, thought.said
    row = {"n": len(said)} | estimate("exact", [each.exact for each in said])
    row |= estimate("free", [np.mean(each.free) for each in said])
    row |= estimate("forced", [np.mean(each.forced) for each in said])
    yield "decoding", head | row
    by_kind = defaultdict(list)
    for each in said:
        for kind, free, forced in zip(word_kinds(each.gold), each.free, each.forced, strict=True):
            by_kind[kind].append((free, forced))
    for kind in filter(by_kind.get, WORD_KINDS):
        free, forced = np.mean(by_kind[kind], axis=0).round(4).tolist()
        yield "word_kinds", head | {"kind": kind, "n": len(by_kind[kind]), "free": free, "forced": forced}
    for each in said[:EXAMPLES]:
        yield "examples", head | {"gold": " ".join(each.gold), "said": " ".join(each.said)}
    if asked.family in ANSWERS:
        yield "answers", head | answer_row(asked, thought)


def answer_row(asked: Asked, thought: Thought) -> dict[str, Any]:
    """The answer that is said against the one that is found."""
    right = [str(pair.content) for pair in asked.pairs]
    said = [f" {' '.join(each.said)}".rpartition(" so ")[2].strip() for each in thought.said]
    own = thought.vectors[OWN]
    found = [str(each) for each in asked.retrieved(own)]
    row = {"n": len(right)} | estimate("said", np.array(said) == np.array(right))
    row |= estimate("retrieved", asked.hits(own)) | estimate("agree", np.array(said) == np.array(found))
    chances = {"agree_by_chance": None, "agree_given_gold": right}
    return row | {name: rounded(agreement_by_chance(said, found, among)) for name, among in chances.items()}


def similarity_row(asked: Asked, thought: Thought) -> dict[str, Any]:
    """How alike embeddings are, and the states of a thought."""
    own, states = thought.vectors[OWN], thought.states  # (B, E), (B, K, D)
    alike: dict[str, float | None] = {"embeddings": float(mean_cosine(own[None])), "within": None, "between": None}
    if states is not None:
        alike["between"] = float(mean_cosine(states.transpose(0, 1)).mean())  # of (K, B, D)
        alike["within"] = float(mean_cosine(states).mean()) if states.shape[1] > 1 else None
    return {"family": asked.family, "n": len(own)} | {name: rounded(value) for name, value in alike.items()}


def probe(encoder: TTEEncoder, config: TrainConfig, queries: int) -> dict[str, Any]:
    """Everything about one checkpoint."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in LISTS}
    embeddings, thoughts = [], []
    for family in FAMILIES:
        asked = Asked.draw(encoder, family, queries, split=SPLIT, seed=SEED)
        thought = WAYS[config.model.method](encoder, config, asked)
        embeddings.append(thought.vectors[OWN])
        rows["interventions"] += intervention_rows(asked, thought)
        for name, row in rationale_rows(asked, thought) if thought.said else ():
            rows[name].append(row)
        rows["similarity"].append(similarity_row(asked, thought))
        if thought.states is not None:
            thoughts.append(thought.states.flatten(0, 1))  # (B K, D)
    return rows | {
        "effective_rank_embeddings": rounded(effective_rank(torch.cat(embeddings))),
        "effective_rank_thought": rounded(effective_rank(torch.cat(thoughts))) if thoughts else None,
    }


def is_trained(study: StudyConfig, task: Task) -> bool:
    """Whether the run has a checkpoint; prints a line if it has none."""
    seed, name = task
    trained = (study.folder(task) / RESULT).exists()
    if not trained:
        print(f"{name} is not trained with seed {seed} yet, and is left out.", file=sys.stderr)
    return trained


def probe_arm(study: StudyConfig, task: Task) -> str:
    """Probe the checkpoint of one arm and seed, unless the results have its probe already."""
    torch.set_num_threads(1)
    seed, name = task
    folder, results = study.folder(task), ResultsFile(study.results_file)
    identity = {"condition": study.condition, "arm": name, "training_seed": seed}
    if results.find("probe", **identity) is None:
        config = read_config(folder / "config.yaml")
        encoder = TTEEncoder(str(folder / RESULT), device="cpu").eval()
        head = {"method": config.model.method, "think_tokens": encoder.max_budget, "fingerprint": encoder.fingerprint}
        head |= {"split": SPLIT, "queries": study.probe_queries}
        results.put({"record": "probe", **identity, **head, **probe(encoder, config, study.probe_queries)})
    return study.label(task)


if __name__ == "__main__":
    for label in launch_study(__doc__, probe_arm, ready=is_trained):
        print(label, flush=True)
