"""The two halves of a stream of embeddings: items to features in the background, features to vectors in the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from sentence_transformers.util import batch_to_device, truncate_embeddings

from tte_retriever.errors import InputError, TTEError
from tte_retriever.inference.collate import collate, split
from tte_retriever.isolation import run_isolated

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from transformers import PreTrainedTokenizerBase

    from tte_retriever.inference.collate import Features


class Model(Protocol):
    """The part of a ``TTEEncoder`` that embeds a batch."""

    tokenizer: PreTrainedTokenizerBase

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    def preprocess(self, inputs: Sequence[Any], *, prompt: str | None, think_budget: int | None) -> Features:
        """Turn items into features."""

    def __call__(self, input: Features) -> Features:
        """Turn features into ``sentence_embedding`` (B, E)."""


@dataclass(frozen=True)
class BatchEmbedder:
    """Embeds batches that are collated anew from prepared items.

    Attributes:
        model: What embeds.
        prompt: As for ``encode``.
        think_budget: As for ``encode``.
        dimension: E after truncation; ``None`` is the whole vector.
        normalize: Whether vectors get length 1 again.
        isolate_errors: Whether an item that fails alone becomes an error in its place instead of ending the stream.

    Example:
        >>> from tte_retriever import TTEEncoder
        >>> embedder = BatchEmbedder(TTEEncoder("tte-flash-tiny", device="cpu"), think_budget=2)
        >>> [vector.shape for vector in embedder.embed(embedder.prepare(["two", "a red circle"]))]
        [(128,), (128,)]
    """

    model: Model
    prompt: str | None = None
    think_budget: int | None = None
    dimension: int | None = None
    normalize: bool = False
    isolate_errors: bool = False

    def prepare(self, items: Sequence[Any]) -> list[Features]:
        """The features of each item."""
        return split(self.model.preprocess(items, prompt=self.prompt, think_budget=self.think_budget))

    def embed(self, rows: Sequence[Features]) -> list[np.ndarray | InputError]:
        """The vector (E,) float32 of each item, or its error."""
        if not self.isolate_errors:
            return [*self._embed(rows)]
        results = run_isolated(self._embed, rows, TTEError)
        return [InputError(str(each)) if isinstance(each, TTEError) else each for each in results]

    def _embed(self, rows: Sequence[Features]) -> list[np.ndarray]:
        model, tokenizer = self.model, self.model.tokenizer
        batch = collate(rows, pad_id=int(tokenizer.pad_token_id or 0), padding_side=tokenizer.padding_side)
        with torch.inference_mode():
            vectors = model(batch_to_device(batch, model.device))["sentence_embedding"]  # (B, E)
            if self.dimension is not None:
                vectors = truncate_embeddings(vectors, self.dimension)
            if self.normalize:
                vectors = torch.nn.functional.normalize(vectors, dim=1)
        # Copies, because a view would keep the whole batch in memory.
        return [vector.copy() for vector in vectors.float().cpu().numpy()]
