"""How commands load a model: without progress bars, and with one sentence if it cannot be loaded."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tte_retriever.errors import InputError, TTEError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sentence_transformers import SentenceTransformer

    from tte_retriever.encoder import TTEEncoder


def load_encoder(name: str) -> TTEEncoder:
    """Load a bundled model, a folder or a hub id.

    Raises:
        InputError: If the model does not exist or cannot be loaded.
    """
    from tte_retriever.encoder import TTEEncoder

    with _one_sentence_errors(name):
        return TTEEncoder(name)


def load_model(name: str) -> SentenceTransformer:
    """Load any model of sentence-transformers; as a ``TTEEncoder`` if its backbone is supported.

    Raises:
        InputError: If the model does not exist or cannot be loaded.
    """
    from sentence_transformers import SentenceTransformer
    from transformers import AutoConfig

    from tte_retriever.backbones import BACKBONES
    from tte_retriever.checkpoint import resolve_model

    try:
        model_type = AutoConfig.from_pretrained(resolve_model(name)).model_type
    except (OSError, ValueError):  # older models have their config in a sub-folder
        model_type = None
    if model_type in {spec.model_type for spec in BACKBONES}:
        return load_encoder(name)
    with _one_sentence_errors(name):
        return SentenceTransformer(name)


@contextmanager
def _one_sentence_errors(name: str) -> Iterator[None]:
    from transformers.utils import logging as transformers_logging

    from tte_retriever.checkpoint import bundled_models

    transformers_logging.disable_progress_bar()
    try:
        yield
    except TTEError:
        raise
    except (OSError, ValueError) as error:  # raised by transformers and the hub client
        raise InputError(
            f"The model {name!r} cannot be loaded ({str(error).splitlines()[0]}); give a bundled name "
            f"({', '.join(bundled_models())}), a folder with a saved model, or the id of one on the hub."
        ) from error
