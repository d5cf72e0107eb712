"""TTE-Flash (arXiv 2605.16638), our reading: K think tokens, then an embed token, in one prefill."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tte_retriever.backbones import (
    Backbone,
    Init,
    add_token_rows,
    load_backbone,
    qwen_vl_model,
    qwen_vl_tokenizer,
    token_id,
)
from tte_retriever.tokens import EMBED_TOKEN, add_thinking_turn, add_thought, refuse_thought

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn


def build(
    backbone: str | Path | Backbone, think_tokens: int, *, init: Init = "keep", seed: int = 0
) -> list[nn.Module]:
    """Turn a Qwen-VL checkpoint into the modules of a think-token encoder.

    Args:
        backbone: Folder or hub id of a Qwen-VL checkpoint, or a loaded one, which is changed in place.
        think_tokens: K, the number of think tokens; 0 is direct embedding.
        init: How the rows of the new tokens start; ``keep`` leaves them as the backbone initialised them.
        seed: Seed of the rows.

    Raises:
        CheckpointError: If the backbone has think tokens or an embed token already.
    """
    loaded = backbone if isinstance(backbone, Backbone) else load_backbone(backbone)
    transformer, processor = loaded.transformer, loaded.transformer.processor
    tokenizer = qwen_vl_tokenizer(transformer)
    refuse_thought(tokenizer, "; load it as it is, or build from the backbone that it came from.")
    thought = add_thought(tokenizer, think_tokens)
    new_ids = [*thought.think_ids, *([] if thought.embed_id is None else [thought.embed_id])]
    copied = loaded.copied_rows(token_id(tokenizer, EMBED_TOKEN), init)
    add_token_rows(qwen_vl_model(transformer), new_ids, init=init, seed=seed, copied=copied)
    template = add_thinking_turn(processor.chat_template, think_tokens)
    processor.chat_template = processor.tokenizer.chat_template = template
    return [transformer, *loaded.head]
