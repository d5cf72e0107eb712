"""Queries of the small world, which a probe embeds several times with different thoughts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from tte_retriever.methods.table import METHODS
from tte_retriever.small_world import Family, Pair, Split, draw_pairs
from tte_retriever.small_world.scoring import candidates_of, encoder_item
from tte_retriever.training.collator import IGNORED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from tte_retriever.encoder import TTEEncoder
    from tte_retriever.training.config import TrainConfig

T = TypeVar("T")
BATCH = 50
"""Queries in one pass through the model."""


@dataclass(frozen=True)
class ProbeQueries:
    """Queries of one family and the candidates that they are ranked over.

    Attributes:
        family: The task.
        pairs: B queries with their answers.
        batches: Their features, :data:`BATCH` at a time.
        candidates: Vectors of all candidates, encoded by the unchanged model.  (N, E) float32
        contents: Content of each candidate.
    """

    family: Family
    pairs: list[Pair]
    batches: list[dict[str, Any]]
    candidates: np.ndarray
    contents: list[object]

    @classmethod
    def draw(cls, encoder: TTEEncoder, family: Family, queries: int, *, split: Split, seed: int | str) -> ProbeQueries:
        """Draw ``queries`` pairs of a family; the same arguments give the same pairs."""
        pairs = draw_pairs(family, queries, seed=seed, split=split)
        items, contents = candidates_of(pairs)
        batches = [encoder.preprocess([encoder_item(pair.query) for pair in part]) for part in in_batches(pairs)]
        candidates = encoder.encode([encoder_item(item) for item in items], batch_size=BATCH)  # (N, E)
        return cls(family, pairs, batches, candidates, contents)

    def outputs(self, encoder: TTEEncoder) -> Iterator[dict[str, Any]]:
        """The outputs of the model for each batch."""
        for features in self.batches:
            with torch.no_grad():
                yield encoder(dict(features))

    def retrieved(self, vectors: Tensor) -> list[object]:
        """The content that each query retrieves first, for query vectors (B, E)."""
        return [self.contents[best] for best in np.argmax(vectors.numpy() @ self.candidates.T, axis=1)]

    def hits(self, vectors: Tensor) -> np.ndarray:
        """1 for each query whose first candidate answers it, else 0: (B,) float64."""
        found = self.retrieved(vectors)
        return np.array([float(pair.accepts(each)) for pair, each in zip(self.pairs, found, strict=True)])


def in_batches(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    """The rows, :data:`BATCH` at a time."""
    return (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))


def gold_ids(encoder: TTEEncoder, config: TrainConfig, pairs: Sequence[Pair]) -> list[list[int]]:
    """Token ids of the rationales of the queries, as in training, without the end token."""
    collator = METHODS[config.model.method].resolve("collator")(encoder, **config.collator_options(config.seed))
    rows = [
        {
            "anchor": encoder_item(pair.query),
            "positive": encoder_item(pair.positive),
            "anchor_rationale": pair.query_rationale,
            "positive_rationale": pair.positive_rationale,
        }
        for pair in pairs
    ]
    ids = [row for part in in_batches(rows) for row in collator(list(part))["anchor_rationale_ids"].tolist()]
    return [[token for token in row if token not in (IGNORED, collator.end_id)] for row in ids]
