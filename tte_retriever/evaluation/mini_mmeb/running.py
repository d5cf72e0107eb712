"""Run the suite: draw items, encode them, rank the candidates, score the rankings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm.autonotebook import tqdm

from tte_retriever.encoder import TTEEncoder
from tte_retriever.errors import InputError
from tte_retriever.fingerprints import fingerprint

from .cache import cached
from .encoding import Role, check_modalities, digest, embed, used_budget
from .metrics import METRICS, chance, interval, ndcg, prior_only
from .report import Report, Score
from .tasks import SPLITS, SuiteSplit, tasks_named

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from sentence_transformers import SentenceTransformer

    from tte_retriever.small_world.tasks import Item

    from .pools import Pool
    from .tasks import Task

SUITE = "mini-mmeb"


def evaluate(
    model: SentenceTransformer,
    *,
    name: str | None = None,
    split: SuiteSplit = "iid",
    seed: int = 0,
    queries: int = 500,
    tasks: Sequence[str] | None = None,
    think_budget: int | None = None,
    cache: Path | None = None,
    show_progress_bar: bool = False,
) -> Report:
    """Score a model on mini-MMEB.

    Args:
        model: A multimodal ``SentenceTransformer``, a :class:`~tte_retriever.TTEEncoder` or another.
        name: Name of the model in the report; default: its class.
        split: ``iid``, ``held-out`` (every item shows a combination that training never does) or ``validation``.
        seed: Seed of the drawn items.
        queries: Number of queries for each task.
        tasks: Names of the tasks to run; ``None`` is all.
        think_budget: As for ``TTEEncoder.encode``.
        cache: Folder of cached vectors, which later runs with the same weights, settings and items read.
        show_progress_bar: Whether to show progress on stderr.

    Returns:
        The scores, one for each task.

    Raises:
        InputError: An argument is out of range, or the model does not take the inputs of a task.
        TTEError: A vector has NaN or infinity.

    Example:
        >>> from tte_retriever import TTEEncoder
        >>> from tte_retriever.evaluation.mini_mmeb import evaluate
        >>> encoder = TTEEncoder("tte-flash-tiny", device="cpu")
        >>> report = evaluate(encoder, queries=10, tasks=["moment-retrieval"])
        >>> report.tasks[0].score > report.tasks[0].chance
        True
    """
    if split not in SPLITS:
        raise InputError(f"The split {split!r} does not exist; there are {', '.join(SPLITS)}.")
    if queries < 1:
        raise InputError(f"queries is {queries}; give a positive number.")
    chosen = tasks_named(tasks)
    check_modalities(model, chosen)
    used = used_budget(model, think_budget)
    space = model.fingerprint if isinstance(model, TTEEncoder) else fingerprint(model)

    # The fingerprint is the same for every dtype of the weights; the vectors are not.
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    pixels = f"-{model.max_pixels}px" if isinstance(model, TTEEncoder) and model.max_pixels else ""

    def vectors(task: Task, items: list[Item], role: Role) -> np.ndarray:
        file = None
        if cache is not None:
            drawn = f"{task.name}-{split}-{seed}-{role}-{digest(items)}"
            file = cache / f"{space}-{dtype}{pixels}" / f"think-{used}-{drawn}.npy"
        return cached(file, lambda: embed(model, items, role, think_budget))

    bar = tqdm(chosen, desc=SUITE, disable=not show_progress_bar)
    scores = tuple(_score(model, task, split, task.pools(split, seed, queries), vectors) for task in bar)
    return Report(SUITE, seed, name or type(model).__name__, space, split, used, scores)


def _score(
    model: SentenceTransformer,
    task: Task,
    split: SuiteSplit,
    pools: list[Pool],
    vectors: Callable[[Task, list[Item], Role], np.ndarray],
) -> Score:
    asked = vectors(task, [query.item for pool in pools for query in pool.queries], "query")
    offered = vectors(task, [candidate.item for pool in pools for candidate in pool.candidates], "document")
    k = METRICS[task.metric]
    parts: list[np.ndarray] = []
    for pool in pools:
        q, asked = np.split(asked, [len(pool.queries)])  # (B, E)
        c, offered = np.split(offered, [len(pool.candidates)])  # (N, E)
        # In float64, so that equal vectors have equal similarities in every position of the matrix.
        similarities = model.similarity(torch.from_numpy(q).double(), torch.from_numpy(c).double())  # (B, N)
        parts.append(ndcg(similarities.numpy(), pool.gains, k))
    per_query = np.concatenate(parts)

    def mean(of: Callable[[np.ndarray, int], np.ndarray]) -> float:
        return float(np.concatenate([of(pool.gains, k) for pool in pools]).mean())

    return Score(
        name=task.name,
        modality=task.modality,
        family=task.family,
        split=split,
        metric=task.metric,
        score=float(per_query.mean()),
        ci95=interval(per_query),
        chance=mean(chance),
        prior_only=mean(prior_only),
        n=len(per_query),
        per_query=per_query,
        kinds=tuple(query.kind for pool in pools for query in pool.queries),
    )
