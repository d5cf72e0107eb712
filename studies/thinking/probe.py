"""Look into the thoughts of the study's checkpoints: what they say, and whether the embedding depends on them.

    python -m studies.thinking.probe studies/thinking/config.yaml --arms tte-flash plume --seeds 0

Takes the config, and the checkpoints, of ``run.py``, and draws fresh test pairs of every family of the small
world (``--set probe_queries=300`` of each). Runs that are not trained yet are left out, those that are probed already are
not probed again. ``results_dir/probes/<arm>-<seed>.json`` holds

* ``arm, training_seed, method, think_tokens, fingerprint, split, queries``;
* ``interventions``, rows of ``family, intervention, n, cosine, hit@1, change`` and a ``_ci95`` of each of the three: queries
  are embedded with another thought and ranked over untouched candidates. ``cosine`` is that between the vectors with their
  own thought and with the other, ``change`` what is gained or lost in hit@1. ``none`` is the model as it is. Think tokens
  and latent steps are replaced in every layer by those of another query (``swap``), their own in another order
  (``shuffle``; a single one has none), zeros (``zero``) or the mean over the queries (``mean``); for latent steps,
  ``<name>-inputs`` replaces their inputs alone. A written rationale is that of another query (``swap``), its own words
  in another order (``shuffle``), none (``empty``) or the true one (``gold``);
* ``decoding``, rows of ``family, n, exact, free, forced`` with intervals, where a backbone was trained to write rationales:
  the share that is written word for word, and of words in their place, written freely and after the true words before;
* ``word_kinds``, rows of ``family, kind, n, free, forced``, by kind of word;
* ``answers``, rows of ``family, n, said, retrieved, agree, agree_by_chance, agree_given_gold`` for families that ask: how
  often the answer that the written rationale ends in is right, how often the one that the embedding finds is, and how
  often the two are the same; then how often they would be if they had nothing in common, and nothing but the question's
  right answer;
* ``examples``, rows of ``family, gold, said``;
* ``similarity``, rows of ``family, n, embeddings, within, between``: mean cosine of the embeddings of different queries,
  against which to read what an intervention does; of last states at different think tokens or steps of one query; and of
  those at the same one of different queries;
* ``effective_rank_embeddings`` and ``effective_rank_thought``, over the queries of all families, and all steps of them.

What does not apply is an empty list or ``null``. Intervals are 95 % bootstrap intervals over queries.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from studies.thinking.probing.agreement import agreement_by_chance
from studies.thinking.probing.asking import Asked
from studies.thinking.probing.geometry import effective_rank, mean_cosine
from studies.thinking.probing.ways import OWN, WAYS, Thought
from studies.thinking.study import StudyConfig, Task, launch_study, write_json
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
    """Whether there is a checkpoint; if not, that is said."""
    seed, name = task
    trained = (study.folder(task) / RESULT).exists()
    if not trained:
        print(f"{name} is not trained with seed {seed} yet, and is left out.", file=sys.stderr)
    return trained


def probe_arm(study: StudyConfig, task: Task) -> list[Path]:
    """Probe the checkpoint of one arm and seed, if that is not done already."""
    torch.set_num_threads(1)
    seed, name = task
    folder, file = study.folder(task), Path(study.results_dir) / f"probes/{name}-{seed}.json"
    if file.exists():
        return [file]
    config = read_config(folder / "config.yaml")
    encoder = TTEEncoder(str(folder / RESULT), device="cpu").eval()
    head = {"arm": name, "training_seed": seed, "method": config.model.method, "think_tokens": encoder.max_budget}
    head |= {"fingerprint": encoder.fingerprint, "split": SPLIT, "queries": study.probe_queries}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, head | probe(encoder, config, study.probe_queries))
    return [file]


if __name__ == "__main__":
    for files in launch_study(__doc__, probe_arm, ready=is_trained):
        print(*files, flush=True)
