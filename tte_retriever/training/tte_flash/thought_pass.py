"""A training pass of a model with think tokens: it decodes rationales, and may stop gradients at the think tokens."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from tte_retriever.backbones.qwen_vl import QwenVLModel, qwen_vl_model
from tte_retriever.errors import InputError
from tte_retriever.explain.decoding import Prefill, states_at, visible_columns
from tte_retriever.training.rationale import rationale_nll

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sentence_transformers.sentence_transformer.modules import Transformer

    from tte_retriever.tokens import ThoughtVocabulary

RationaleFrom: TypeAlias = Literal["thought", "query+thought"]
Decoder: TypeAlias = Literal["soft-prompt", "kv"]

ThoughtDecoder: TypeAlias = Callable[[Tensor, Tensor, Tensor, QwenVLModel], Tensor]
"""Think states (B, K, D), which of them are present (B, K), text (B, R) and backbone → NLL of each text (B,)."""


@dataclass(frozen=True)
class ThoughtPass:
    """The :class:`~tte_retriever.training.rationale.RationalePass` of a model with think tokens.

    Attributes:
        thought: The model's think and embed tokens.
        rationale_from: What the backbone decodes from: the think tokens, or everything in front of the embed token.
        decoder: Whether it reads their last hidden states or their keys and values.
        stop_gradient: Whether the embedding reads the think states as constants.
        thought_decoder: Decodes the think states in place of the backbone, if not ``None``.
    """

    thought: ThoughtVocabulary
    rationale_from: RationaleFrom
    decoder: Decoder
    stop_gradient: bool
    thought_decoder: ThoughtDecoder | None = None

    def is_think(self, input_ids: Tensor) -> Tensor:
        """True at think tokens; (B, L) like ``input_ids``."""
        ids = torch.tensor(self.thought.think_ids, dtype=input_ids.dtype, device=input_ids.device)
        return torch.isin(input_ids, ids)

    def visible(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """True at the tokens that the backbone decodes a rationale from; (B, L) like both arguments."""
        if self.rationale_from == "thought":
            return self.is_think(input_ids)
        visible = attention_mask.bool()
        return visible if self.thought.embed_id is None else visible & (input_ids != self.thought.embed_id)

    def decodable(self, input_ids: Tensor, rationale_ids: Tensor) -> Tensor:
        """Rows with a rationale and, if it is decoded from the think tokens alone, at least one of them; (B,)."""
        rows = (rationale_ids >= 0).any(1)
        return rows if self.rationale_from == "query+thought" else rows & self.is_think(input_ids).any(1)

    @contextmanager
    def attached_to(self, transformer: Transformer, rationale_ids: Tensor | None) -> Iterator[None]:
        """Within, features also get ``thought_states`` (B, K, D) and ``thought_mask`` (B, K).

        These are the last hidden states of the think tokens, and which of them are present.

        Raises:
            InputError: ``decoder`` is ``kv``, and gradient checkpointing keeps no keys and values.
        """
        backbone = qwen_vl_model(transformer)
        keeping: AbstractContextManager[list[Prefill]] = nullcontext([])
        if rationale_ids is not None and self.decoder == "kv" and self.thought_decoder is None:
            keeping = _kept_prefill(transformer)

        def decode(_module: nn.Module, _args: Any, features: dict[str, Any]) -> None:
            inputs = {key: value for key, value in features.items() if key != "token_embeddings"}
            is_think = self.is_think(features["input_ids"])
            columns = visible_columns(is_think)
            features["thought_states"] = states_at(features["token_embeddings"], columns)
            features["thought_mask"] = is_think.gather(1, columns)
            if rationale_ids is not None:
                features["rationale_nll"] = self._nll(backbone, features, rationale_ids, kept[0] if kept else None)
            if self.stop_gradient:
                with _read_only(transformer, is_think):
                    features["token_embeddings"] = transformer.forward(inputs)["token_embeddings"]

        with transformer.register_forward_hook(decode), keeping as kept:
            yield

    def _nll(
        self, backbone: QwenVLModel, features: dict[str, Any], rationale_ids: Tensor, prefill: Prefill | None
    ) -> Tensor:
        """NLL of each row's rationale, 0 for rows that are not decodable; (B,)."""
        states, input_ids = features["token_embeddings"], features["input_ids"]  # (B, L, D), (B, L)
        nll = states.new_zeros(len(states), dtype=torch.float32)
        rows = self.decodable(input_ids, rationale_ids).nonzero()[:, 0]
        if not len(rows):
            return nll
        ids = rationale_ids[rows]
        ids = ids[:, : int((ids >= 0).sum(1).max())]
        if self.thought_decoder is not None:
            thought, present = features["thought_states"][rows], features["thought_mask"][rows]
            return nll.index_put((rows,), self.thought_decoder(thought, present, ids, backbone))
        visible = self.visible(input_ids, features["attention_mask"])
        if prefill is not None:
            prefill = prefill.of_rows(rows)
        return nll.index_put((rows,), rationale_nll(backbone, states[rows], ids, visible[rows], prefill))


@contextmanager
def _kept_prefill(transformer: Transformer) -> Iterator[list[Prefill]]:
    """Within, the backbone's next pass keeps its keys and values; they become the only entry of the list."""
    decoder = qwen_vl_model(transformer).language_model
    if any(layer.training and layer.gradient_checkpointing for layer in decoder.layers):
        raise InputError(
            "decoder='kv' needs keys and values, which gradient checkpointing does not keep; use decoder='soft-prompt' or "
            "turn gradient checkpointing off."
        )
    kept: list[Prefill] = []

    def use_cache(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, kwargs if kept else {**kwargs, "use_cache": True}

    def keep(_module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if kept:
            return
        positions = kwargs.get("position_ids")
        if positions is None:  # a batch without media: the decoder counts from zero
            batch, length, _ = kwargs["inputs_embeds"].shape
            positions = torch.arange(length, device=output.last_hidden_state.device).expand(1, batch, length)
        layers = output.past_key_values.layers
        kept.append(Prefill([(layer.keys, layer.values) for layer in layers], positions[-1]))

    before = decoder.register_forward_pre_hook(use_cache, with_kwargs=True)
    with before, decoder.register_forward_hook(keep, with_kwargs=True):
        yield kept


class _ReadOnly(nn.Module):
    """A layer that reads the hidden states of ``frozen`` tokens (B, L) without passing gradients back into them.

    It wraps the layer, because in some releases of transformers a hook on the layer would be part of what gradient
    checkpointing computes again, after the hook was removed.
    """

    def __init__(self, layer: nn.Module, frozen: Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.frozen = frozen

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The layer's output; ``hidden`` is (B, L, D)."""
        return self.layer(torch.where(self.frozen[..., None], hidden.detach(), hidden), *args, **kwargs)


@contextmanager
def _read_only(transformer: Transformer, frozen: Tensor) -> Iterator[None]:
    """Within, every layer of the backbone is :class:`_ReadOnly`."""
    decoder = qwen_vl_model(transformer).language_model
    layers = decoder.layers
    decoder.layers = nn.ModuleList(_ReadOnly(layer, frozen) for layer in layers)
    try:
        yield
    finally:
        decoder.layers = layers
