"""Call the model on a batch so that one bad item does not cost the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tte_retriever.errors import InputError
from tte_retriever_qdrant.stores.checks import check_vector

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tte_retriever_qdrant.encoder import Encoder, Item


def embed(encoder: Encoder, items: Sequence[Item], batch_size: int, dim: int) -> list[np.ndarray | InputError]:
    """Encode items as documents.

    Args:
        encoder: The model.
        items: Decoded media.
        batch_size: Items per forward pass of the model.
        dim: Length that vectors must have.

    Returns:
        For each item its vector (D,), float32, or the error for which it has none.
    """
    try:
        vectors = encoder.encode_document(list(items), batch_size=batch_size, show_progress_bar=False)
    except InputError as error:
        if len(items) == 1:
            return [error]
        return [result for item in items for result in embed(encoder, [item], batch_size, dim)]
    return [_checked(vector, dim) for vector in np.asarray(vectors)]


def _checked(vector: np.ndarray, dim: int) -> np.ndarray | InputError:
    try:
        return check_vector(vector, dim, "this item")
    except InputError as error:
        return error
