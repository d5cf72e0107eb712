"""The part of a Qwen-VL model of transformers that this project relies on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor, nn
    from transformers import GenerationConfig, PreTrainedTokenizerBase


_POSITION_KEYS = ("mm_token_type_ids", "image_grid_thw", "video_grid_thw", "second_per_grid_ts")


class QwenVLModel(Protocol):
    """A Qwen2-VL, Qwen2.5-VL, Qwen3-VL or Qwen3.5 model, with an output head or without one.

    Example:
        >>> from tte_retriever import TTEEncoder
        >>> model: QwenVLModel = qwen_vl_model(TTEEncoder("tte-flash-tiny", device="cpu").transformer)
        >>> len(model.language_model.layers), model.get_output_embeddings()
        (3, None)
    """

    config: Any
    generation_config: GenerationConfig
    """How a model with an output head chooses tokens."""
    language_model: Any
    """The decoder, in a model without output head: ``inputs_embeds`` (B, L, D) and ``position_ids`` (3, B, L) to
    ``last_hidden_state`` (B, L, D). Its ``layers`` are the blocks."""
    visual: Any
    """The vision tower, in a model without output head."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    @property
    def base_model(self) -> QwenVLModel:
        """The model without its output head; a model that has none is its own."""

    def __call__(self, **inputs: Any) -> Any:
        """A forward pass."""

    def generate(self, **inputs: Any) -> Any:
        """Write on, in a model with an output head."""

    def get_input_embeddings(self) -> nn.Embedding:
        """The input embedding, (V, D)."""

    def get_output_embeddings(self) -> nn.Linear | None:
        """The output head, (V, D), or ``None``."""

    def get_rope_index(self, input_ids: Tensor, **inputs: Any) -> tuple[Tensor, Tensor]:
        """Positions of a batch, (3, B, L), and how far each row's next text token is from its length."""

    def resize_token_embeddings(self, new_num_tokens: int, pad_to_multiple_of: int | None = None) -> nn.Embedding:
        """Grow or shrink the vocabulary, in place."""


def qwen_vl_model(transformer: nn.Module) -> QwenVLModel:
    """The Qwen-VL model inside a ``Transformer`` module of sentence-transformers.

    Example:
        >>> from tte_retriever import TTEEncoder
        >>> qwen_vl_model(TTEEncoder("tte-flash-tiny", device="cpu").transformer).get_input_embeddings().embedding_dim
        128
    """
    return cast("QwenVLModel", transformer.model)


def rope_positions(backbone: QwenVLModel, features: Mapping[str, Any]) -> Tensor:
    """Positions of the tokens of a batch on the axes of time, height and width; (3, B, L) int64.

    Args:
        backbone: The model without its output head.
        features: What ``preprocess`` returns.

    Example:
        >>> from tte_retriever import TTEEncoder
        >>> encoder = TTEEncoder("tte-flash-tiny", device="cpu")
        >>> positions = rope_positions(qwen_vl_model(encoder.transformer), encoder.preprocess(["a red circle"]))
        >>> positions[:, 0, :3].tolist()
        [[0, 1, 2], [0, 1, 2], [0, 1, 2]]
    """
    given = {key: features[key] for key in _POSITION_KEYS if key in features}
    return backbone.get_rope_index(features["input_ids"], attention_mask=features["attention_mask"], **given)[0]


def qwen_vl_tokenizer(transformer: nn.Module) -> PreTrainedTokenizerBase:
    """The tokenizer inside a ``Transformer`` module of sentence-transformers.

    Example:
        >>> from tte_retriever import TTEEncoder
        >>> qwen_vl_tokenizer(TTEEncoder("tte-flash-tiny", device="cpu").transformer).padding_side
        'right'
    """
    return cast("PreTrainedTokenizerBase", transformer.tokenizer)


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """Id of a token that the vocabulary contains.

    Example:
        >>> from tte_retriever import TTEEncoder
        >>> encoder = TTEEncoder("tte-flash-tiny", device="cpu")
        >>> token_id(encoder.tokenizer, "<|embed|>") == encoder.thought.embed_id
        True
    """
    return cast("int", tokenizer.convert_tokens_to_ids(token))
