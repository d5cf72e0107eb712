"""How commands choose the model of a store."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tte_retriever.errors import InputError

if TYPE_CHECKING:
    from tte_retriever.encoder import TTEEncoder
    from tte_retriever.options import ModelOptions
    from tte_retriever_qdrant.records import CollectionSpec


def with_defaults_of(spec: CollectionSpec, options: ModelOptions) -> ModelOptions:
    """Options whose think budget and pixel limit are those of a collection where none were given."""
    return replace(
        options,
        think_budget=spec.think_budget if options.think_budget is None else options.think_budget,
        max_pixels=spec.max_pixels if options.max_pixels is None else options.max_pixels,
    )


def load_stored_model(spec: CollectionSpec | None, options: ModelOptions, store: str) -> TTEEncoder:
    """The model that a command was given, else the one that made the collection.

    Raises:
        InputError: No model is named, or it cannot be loaded.
    """
    from tte_retriever.cli.loading import load_encoder

    name = options.model or (spec.model if spec else "")
    if not name:
        raise InputError(f"the store {store!r} does not name its model; give it with --model")
    return load_encoder(replace(options, model=name))
