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
* ``answers``, rows of ``family, n, written, retrieved, agree, agree_by_chance, agree_given_gold`` for families of questions: how
  often the answer at the end of the written rationale is right, how often the retrieved one is, and how often the two are
  equal; then how often they would be equal if they were independent, and if they depended only on the right answer;
* ``examples``, rows of ``family, gold, written``;
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
from studies.thinking.probing.geometry import effective_rank, mean_cosine
from studies.thinking.probing.per_method import OWN, PER_METHOD, Thought
from studies.thinking.probing.queries import ProbeQueries
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
    """The value with the precision of the records."""
    return None if value is None else round(value, 4)


def estimate(name: str, values: np.ndarray | list[Any]) -> dict[str, Any]:
    """The mean and its interval, as two entries of a row."""
    array = np.asarray(values, float)
    return {name: round(float(array.mean()), 4), f"{name}_ci95": [round(each, 4) for each in interval(array)]}


def intervention_rows(queries: ProbeQueries, thought: Thought) -> Iterator[dict[str, Any]]:
    """One row for each intervention."""
    own = thought.vectors[OWN]
    for name, vectors in thought.vectors.items():
        row = {"family": queries.family, "intervention": name, "n": len(own)}
        hits = queries.hits(vectors)
        row |= estimate("cosine", F.cosine_similarity(own, vectors).numpy()) | estimate("hit@1", hits)
        yield row | estimate("change", hits - queries.hits(own))


def rationale_rows(queries: ProbeQueries, thought: Thought) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows about the rationales of a family, each with the name of its list."""
    head, rationales = {"family": queries.family}, thought.rationales
    row = {"n": len(rationales)} | estimate("exact", [each.exact for each in rationales])
    row |= estimate("free", [np.mean(each.free) for each in rationales])
    row |= estimate("forced", [np.mean(each.forced) for each in rationales])
    yield "decoding", head | row
    by_kind = defaultdict(list)
    for each in rationales:
        for kind, free, forced in zip(word_kinds(each.gold), each.free, each.forced, strict=True):
            by_kind[kind].append((free, forced))
    for kind in filter(by_kind.get, WORD_KINDS):
        free, forced = np.mean(by_kind[kind], axis=0).round(4).tolist()
        yield "word_kinds", head | {"kind": kind, "n": len(by_kind[kind]), "free": free, "forced": forced}
    for each in rationales[:EXAMPLES]:
        yield "examples", head | {"gold": " ".join(each.gold), "written": " ".join(each.written)}
    if queries.family in ANSWERS:
        yield "answers", head | answer_row(queries, thought)


def answer_row(queries: ProbeQueries, thought: Thought) -> dict[str, Any]:
    """The written answer compared with the retrieved one."""
    right = [str(pair.content) for pair in queries.pairs]
    written = [f" {' '.join(each.written)}".rpartition(" so ")[2].strip() for each in thought.rationales]
    own = thought.vectors[OWN]
    found = [str(each) for each in queries.retrieved(own)]
    row = {"n": len(right)} | estimate("written", np.array(written) == np.array(right))
    row |= estimate("retrieved", queries.hits(own)) | estimate("agree", np.array(written) == np.array(found))
    chances = {"agree_by_chance": None, "agree_given_gold": right}
    return row | {name: rounded(agreement_by_chance(written, found, among)) for name, among in chances.items()}


def similarity_row(queries: ProbeQueries, thought: Thought) -> dict[str, Any]:
    """Mean cosines of embeddings and of the hidden states of thoughts."""
    own, states = thought.vectors[OWN], thought.states  # (B, E), (B, K, D)
    alike: dict[str, float | None] = {"embeddings": float(mean_cosine(own[None])), "within": None, "between": None}
    if states is not None:
        alike["between"] = float(mean_cosine(states.transpose(0, 1)).mean())  # of (K, B, D)
        alike["within"] = float(mean_cosine(states).mean()) if states.shape[1] > 1 else None
    return {"family": queries.family, "n": len(own)} | {name: rounded(value) for name, value in alike.items()}


def probe(encoder: TTEEncoder, config: TrainConfig, count: int) -> dict[str, Any]:
    """All measurements on one checkpoint, with ``count`` queries for each family."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in LISTS}
    embeddings, thoughts = [], []
    for family in FAMILIES:
        queries = ProbeQueries.draw(encoder, family, count, split=SPLIT, seed=SEED)
        thought = PER_METHOD[config.model.method](encoder, config, queries)
        embeddings.append(thought.vectors[OWN])
        rows["interventions"] += intervention_rows(queries, thought)
        for name, row in rationale_rows(queries, thought) if thought.rationales else ():
            rows[name].append(row)
        rows["similarity"].append(similarity_row(queries, thought))
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
