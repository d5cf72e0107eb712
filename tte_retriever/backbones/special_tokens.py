"""Tokens that a tokenizer puts around every sequence by itself, and how a build takes them away."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from tte_retriever.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ADDING = {"TemplateProcessing", "BertProcessing", "RobertaProcessing"}
"""Post-processors of the tokenizers library that add tokens."""


def remove_special_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    """Stop a tokenizer from adding tokens in front of and behind every sequence, in place.

    The tokenizer of Qwen3-VL-Embedding appends ``<|endoftext|>``. Behind a chat template that ends in the embed token, the
    appended token would be the one that is read.

    Raises:
        CheckpointError: If the tokenizer adds tokens in another way.
    """
    backend: Tokenizer = tokenizer.backend_tokenizer  # every Qwen-VL tokenizer is a fast one
    state = json.loads(backend.to_str())
    state["post_processor"] = _without_adding(state["post_processor"])
    backend.post_processor = Tokenizer.from_str(json.dumps(state)).post_processor
    if added := tokenizer("").input_ids:
        raise CheckpointError(
            f"The tokenizer adds {tokenizer.decode(added)!r} to every sequence, and not by its post-processor; give a "
            "checkpoint whose tokenizer adds nothing."
        )


def _without_adding(post_processor: dict[str, Any] | None) -> dict[str, Any] | None:
    if post_processor is None or post_processor["type"] in _ADDING:
        return None
    if post_processor["type"] != "Sequence":
        return post_processor
    kept = [each for each in map(_without_adding, post_processor["processors"]) if each is not None]
    return {**post_processor, "processors": kept}
