"""LoRA on the backbone, and training of the new tokens' embedding rows; both are merged before a model is saved."""

from __future__ import annotations

from typing import TYPE_CHECKING

import peft

from tte_retriever.backbones import qwen_vl_model
from tte_retriever.errors import InputError
from tte_retriever.methods.thinking_module import ThinkingModule

if TYPE_CHECKING:
    from tte_retriever.encoder import TTEEncoder
    from tte_retriever.training.config import LoraConfig


def add_lora(model: TTEEncoder, config: LoraConfig) -> peft.PeftModel:
    """Add adapters to the backbone in place; only they and the embedding rows of the new tokens are trained.

    Args:
        model: What is trained. Its modules stay the same objects, so that losses and hooks find them.
        config: Rank, alpha, dropout, targets.

    Returns:
        The adapted backbone, for :func:`merge_lora`.

    Raises:
        InputError: If ``config.targets`` names no module.
    """
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=config.targets,
        trainable_token_indices=_token_rows(model) or None,
    )
    try:
        return _adapt(model, settings)
    except ValueError as error:
        raise InputError(f"lora.targets {config.targets!r} cannot be adapted: {error}") from error


def train_token_rows(model: TTEEncoder) -> peft.PeftModel:
    """Train only the new tokens' embedding rows; everything else is frozen, in place.

    Args:
        model: What is trained; it has an embed token.

    Returns:
        The adapted backbone, for :func:`merge_lora`.
    """
    matrices = _token_rows(model)
    settings = peft.TrainableTokensConfig(token_indices=matrices["embed_tokens"], target_modules=list(matrices))
    return _adapt(model, settings)


def _adapt(model: TTEEncoder, settings: peft.PeftConfig) -> peft.PeftModel:
    adapted = peft.get_peft_model(model.transformer.model, settings)
    assert isinstance(adapted, peft.PeftModel)  # not a PeftMixedModel, which is for several kinds of adapters
    return adapted


def _token_rows(model: TTEEncoder) -> dict[str, list[int]]:
    """Ids of the tokens that the method added, for each matrix in which they have rows; empty if it added none.

    They are the ``added_token_ids`` of a :class:`ThinkingModule`, else think and embed tokens.
    """
    thought, backbone, first = model.thought, qwen_vl_model(model.transformer), model.transformer
    usual = [*thought.think_ids, *([] if thought.embed_id is None else [thought.embed_id])]
    matrices = ["embed_tokens"]
    if backbone.get_output_embeddings() is not None and not backbone.config.tie_word_embeddings:
        matrices.append("lm_head")  # a model that writes has to learn to write the new tokens
    rows = first.added_token_ids if isinstance(first, ThinkingModule) else usual
    return dict.fromkeys(matrices, rows) if rows else {}


def merge_lora(adapted: peft.PeftModel) -> None:
    """Merge adapters and trained rows into the weights, in place, so that the model is a plain one again."""
    adapted.merge_and_unload()
    for parameter in adapted.parameters():
        parameter.requires_grad_(True)
