"""How commands load a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tte_retriever.errors import InputError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from tte_retriever.encoder import TTEEncoder
    from tte_retriever.options import ModelOptions


def load_encoder(options: ModelOptions) -> TTEEncoder:
    """Load a model as a ``TTEEncoder``, without progress bars; raises as :meth:`ModelOptions.load`."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    return options.load()


def load_model(options: ModelOptions) -> SentenceTransformer:
    """Load any model of sentence-transformers; as a ``TTEEncoder`` if its backbone is supported.

    Raises:
        InputError: If the model does not exist or cannot be loaded, or is given options that only a ``TTEEncoder`` has.
    """
    from sentence_transformers import SentenceTransformer
    from transformers import AutoConfig

    from tte_retriever.backbones import BACKBONES
    from tte_retriever.hub import find_model, one_sentence_errors

    name, is_local = find_model(options.model or "", revision=options.revision)
    try:
        config = AutoConfig.from_pretrained(name, revision=options.revision, local_files_only=is_local)
    except (OSError, ValueError):  # older models have their config in a sub-folder
        config = None
    if config is not None and config.model_type in {spec.model_type for spec in BACKBONES}:
        return load_encoder(options)
    if options.encoding:
        raise InputError(
            f"{name!r} is not a model that TTEEncoder takes, and only those have {', '.join(options.encoding)}; leave it out."
        )
    with one_sentence_errors(name):
        return SentenceTransformer(name, local_files_only=is_local, **options.loading)
