"""TTE-Flash (arXiv 2605.16638), our reading: K think tokens, then an embed token, in one prefill."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from tte_retriever.tokens import add_thought, extend_template

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn


def build(backbone: str | Path, think_tokens: int) -> list[nn.Module]:
    """Turn a Qwen-VL checkpoint into the modules of a think-token encoder.

    The rows of the new tokens stay as the backbone initialised them: training decides what they mean.

    Args:
        backbone: Folder or hub id of a Qwen-VL checkpoint whose embedding matrix has room for the new tokens.
        think_tokens: K, the number of think tokens; 0 is direct embedding.
    """
    transformer = Transformer(str(backbone), unpad_inputs=False)
    add_thought(transformer.tokenizer, think_tokens)
    processor = transformer.processor
    template = extend_template(processor.chat_template, think_tokens)
    processor.chat_template = processor.tokenizer.chat_template = template
    return [transformer, Pooling(transformer.get_embedding_dimension(), pooling_mode="lasttoken"), Normalize()]
