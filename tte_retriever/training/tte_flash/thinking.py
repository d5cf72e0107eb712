"""What a training pass does beyond inference: decode rationales from the thought, keep a gradient away from it.

All of it happens in hooks, that is inside the model's own forward: under its autocast, and where DDP can see it.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import torch
from torch import nn

from tte_retriever.errors import InputError
from tte_retriever.explain.decoding import Prefill, states_at, visible_columns
from tte_retriever.training.rationale import rationale_nll

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from tte_retriever.tokens import ThoughtVocabulary
    from tte_retriever.training.lame.light_decoder import LightDecoder

RationaleFrom: TypeAlias = Literal["thought", "query+thought"]
Decoder: TypeAlias = Literal["soft-prompt", "kv"]


@dataclass(frozen=True)
class Thinking:
    """How a model thinks in training.

    Attributes:
        thought: Its think and embed tokens.
        rationale_from: What the decoder sees.
        decoder: How it sees that.
        stop_gradient: Whether the embedding reads the think states as constants.
        light_decoder: What decodes the think states in place of the backbone, if not ``None``.
    """

    thought: ThoughtVocabulary
    rationale_from: RationaleFrom
    decoder: Decoder
    stop_gradient: bool
    light_decoder: LightDecoder | None = None

    def thinks(self, input_ids: Tensor) -> Tensor:
        """True at think tokens; (B, L) like ``input_ids``."""
        ids = torch.tensor(self.thought.think_ids, dtype=input_ids.dtype, device=input_ids.device)
        return torch.isin(input_ids, ids)

    def visible(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """True at the tokens that the backbone decodes a rationale from; (B, L) like both arguments."""
        if self.rationale_from == "thought":
            return self.thinks(input_ids)
        visible = attention_mask.bool()
        return visible if self.thought.embed_id is None else visible & (input_ids != self.thought.embed_id)

    def decodes(self, input_ids: Tensor, rationale_ids: Tensor) -> Tensor:
        """True for rows with a rationale (B, R) and, of the tokens (B, L), something to decode it from; (B,)."""
        has_rationale = (rationale_ids >= 0).any(1)
        return (
            has_rationale if self.rationale_from == "query+thought" else has_rationale & self.thinks(input_ids).any(1)
        )

    @contextmanager
    def during(self, transformer: nn.Module, rationale_ids: Tensor | None) -> Iterator[None]:
        """Within, features that leave ``transformer`` carry more.

        They are ``thought_states`` (B, K, D), the last hidden states of the think tokens, ``thought_mask`` (B, K), which
        of them are there, and, if ``rationale_ids`` (B, R) are given, ``rationale_nll`` (B,).

        Raises:
            InputError: If keys and values are needed but not kept.
        """
        module = cast("Any", transformer)
        with ExitStack() as hooks:
            kept: list[Prefill] | None = None
            if rationale_ids is not None and self.decoder == "kv" and self.light_decoder is None:
                kept = hooks.enter_context(_kept_prefill(module.model))

            def think(_module: nn.Module, _args: Any, features: dict[str, Any]) -> None:
                inputs = {key: value for key, value in features.items() if key != "token_embeddings"}
                thinks = self.thinks(features["input_ids"])
                columns = visible_columns(thinks)
                features["thought_states"] = states_at(features["token_embeddings"], columns)
                features["thought_mask"] = thinks.gather(1, columns)
                if rationale_ids is not None:
                    features["rationale_nll"] = self._nll(
                        module.model, features, rationale_ids, kept[0] if kept else None
                    )
                if self.stop_gradient:
                    with _read_only(module.model, thinks):
                        features["token_embeddings"] = module.forward(inputs)["token_embeddings"]

            hooks.callback(module.register_forward_hook(think).remove)
            yield

    def _nll(
        self, backbone: nn.Module, features: dict[str, Any], rationale_ids: Tensor, prefill: Prefill | None
    ) -> Tensor:
        """NLL of each row's rationale, 0 for rows without one; (B,)."""
        states, input_ids = features["token_embeddings"], features["input_ids"]  # (B, L, D), (B, L)
        nll = states.new_zeros(len(states), dtype=torch.float32)
        rows = self.decodes(input_ids, rationale_ids).nonzero()[:, 0]
        if not len(rows):
            return nll
        ids = rationale_ids[rows]
        ids = ids[:, : int((ids >= 0).sum(1).max())]
        if self.light_decoder is not None:
            thought, present = features["thought_states"][rows], features["thought_mask"][rows]
            return nll.index_put((rows,), self.light_decoder(thought, present, ids, backbone))
        visible = self.visible(input_ids, features["attention_mask"])
        if prefill is not None:
            prefill = prefill.of_rows(rows)
        return nll.index_put((rows,), rationale_nll(backbone, states[rows], ids, visible[rows], prefill))


@contextmanager
def _kept_prefill(backbone: nn.Module) -> Iterator[list[Prefill]]:
    """Have the backbone's next pass keep its keys and values; they become the only entry of the list that is given."""
    decoder = cast("Any", backbone).language_model
    if any(layer.training and layer.gradient_checkpointing for layer in decoder.layers):
        raise InputError(
            "decoder='kv' needs the keys and values that gradient checkpointing throws away; use "
            "decoder='soft-prompt' or turn gradient checkpointing off."
        )
    kept: list[Prefill] = []

    def ask(
        _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
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

    with ExitStack() as hooks:
        hooks.callback(decoder.register_forward_pre_hook(ask, with_kwargs=True).remove)
        hooks.callback(decoder.register_forward_hook(keep, with_kwargs=True).remove)
        yield kept


class _ReadOnly(nn.Module):
    """A layer that reads the hidden states of ``frozen`` tokens (B, L) without passing gradients back into them.

    It stands around the layer because a hook on the layer would, in some releases of transformers, be a part of what
    gradient checkpointing computes again, when the hook is gone.
    """

    def __init__(self, layer: nn.Module, frozen: Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.frozen = frozen

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As the layer; ``hidden`` is (B, L, D)."""
        return self.layer(torch.where(self.frozen[..., None], hidden.detach(), hidden), *args, **kwargs)


@contextmanager
def _read_only(backbone: nn.Module, frozen: Tensor) -> Iterator[None]:
    """Within, every layer of the backbone is :class:`_ReadOnly`."""
    decoder = cast("Any", backbone).language_model
    layers = decoder.layers
    decoder.layers = nn.ModuleList(_ReadOnly(layer, frozen) for layer in layers)
    try:
        yield
    finally:
        decoder.layers = layers
