"""LoRA on the backbone with the rows of the thought trained beside it, or those rows alone; what is shipped is merged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from tte_retriever.backbones import qwen_vl_model
from tte_retriever.errors import InputError
from tte_retriever.methods.thinking_module import ThinkingModule

if TYPE_CHECKING:
    from peft import PeftModel

    from tte_retriever.encoder import TTEEncoder
    from tte_retriever.training.config import LoraConfig


def add_lora(model: TTEEncoder, config: LoraConfig) -> PeftModel:
    """Put adapters into the backbone, in place: everything else is frozen, but the rows of think and embed tokens.

    Args:
        model: What is trained; its modules stay what they are, so that losses and hooks find them.
        config: Rank, alpha, dropout, targets.

    Returns:
        What :func:`merge_lora` takes.

    Raises:
        InputError: If ``config.targets`` names no module.
    """
    import peft

    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=config.targets,
        trainable_token_indices=_thought_rows(model) or None,
    )
    try:
        return cast("PeftModel", peft.get_peft_model(cast("Any", model.transformer.model), settings))
    except ValueError as error:
        raise InputError(f"lora.targets {config.targets!r} cannot be adapted: {error}") from error


def add_rows(model: TTEEncoder) -> PeftModel:
    """Have the rows of think and embed tokens stand apart, in place: everything else is frozen.

    Args:
        model: What is trained, with an embed token.

    Returns:
        What :func:`merge_lora` takes.
    """
    import peft

    matrices = _thought_rows(model)
    settings = peft.TrainableTokensConfig(token_indices=matrices["embed_tokens"], target_modules=list(matrices))
    return cast("PeftModel", peft.get_peft_model(cast("Any", model.transformer.model), settings))


def _thought_rows(model: TTEEncoder) -> dict[str, list[int]]:
    """Ids of what the method added to the vocabulary, by the matrices in which they have rows; nothing if it added none.

    They are the ``added_token_ids`` of a :class:`ThinkingModule`, else think and embed tokens.
    """
    thought, backbone, first = model.thought, qwen_vl_model(model.transformer), model.transformer
    usual = [*thought.think_ids, *([] if thought.embed_id is None else [thought.embed_id])]
    matrices = ["embed_tokens"]
    if backbone.get_output_embeddings() is not None and not backbone.config.tie_word_embeddings:
        matrices.append("lm_head")  # what is written after a rationale has to be learnt there, too
    rows = first.added_token_ids if isinstance(first, ThinkingModule) else usual
    return dict.fromkeys(matrices, rows) if rows else {}


def merge_lora(adapted: PeftModel) -> None:
    """Add adapters and rows to the weights and take them out, in place: the model is a plain one again."""
    cast("Any", adapted).merge_and_unload()
    for parameter in adapted.parameters():
        parameter.requires_grad_(True)
