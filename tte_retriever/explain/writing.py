"""Write text greedily behind a thought, one token at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn import functional as F
from transformers import DynamicCache

from tte_retriever.explain.decoding import output_matrix, states_at, visible_columns
from tte_retriever.methods.plume_rollout import read

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from tte_retriever.backbones import QwenVLModel
    from tte_retriever.methods.explicit_cot import Stop
    from tte_retriever.methods.plume_rollout import Rollout


class RationaleDecoder(Protocol):
    """Decodes text from the states of a thought, such as the light decoder that ``LameLoss`` trains.

    Example:
        >>> from tte_retriever import TTEEncoder
        >>> from tte_retriever.explain import read_rationale
        >>> class Parrot:
        ...     def predicting_states(self, states, present, text_ids, backbone):
        ...         return states[:, :1].expand(-1, text_ids.shape[1], -1)
        >>> encoder = TTEEncoder("tte-flash-tiny", device="cpu")
        >>> len(read_rationale(encoder, "a red circle", Parrot(), max_tokens=3)[0].token_ids)
        3
    """

    def predicting_states(self, states: Tensor, present: Tensor, text_ids: Tensor, backbone: QwenVLModel) -> Tensor:
        """The states that predict each token of a text.

        Args:
            states: Last hidden states of the think tokens.  (B, K, D)
            present: True where there is a state, at least one in every row.  (B, K) bool
            text_ids: Token ids, padded on the right with -100. The last of them is not read.  (B, R) int64
            backbone: The model that has their embeddings.

        Returns:
            (B, R, D); logits are their product with the output matrix of the backbone.
        """


class Advance(Protocol):
    """Reads one more token in each row and gives the states that predict the next."""

    def __call__(self, tokens: Tensor | None) -> Tensor:
        """From the last tokens (B,), ``None`` at the start, to states (B, D)."""


@dataclass(frozen=True)
class Written:
    """What was written in each row.

    Attributes:
        ids: Tokens before the end, padded on the right with -100.  (B, R) int64
        probabilities: The model's probability of each token, 0 at padding.  (B, R) float32
        stops: Why each row ended.
    """

    ids: Tensor
    probabilities: Tensor
    stops: list[Stop]


@torch.no_grad()
def write_greedily(advance: Advance, backbone: QwenVLModel, ends: Mapping[int, Stop], longest: int) -> Written:
    """Choose the most probable token until each row has ended.

    Args:
        advance: Where the text is written.
        backbone: The model that has the output matrix.
        ends: Tokens that end a text, of which they are no part, and what each means.
        longest: The most tokens of a text.
    """
    matrix, state = output_matrix(backbone), advance(None)
    end = torch.full((len(state),), -100, device=state.device)  # (B,)
    ids, probabilities = [end.new_empty(len(end), 0)], [state.new_empty(len(end), 0, dtype=torch.float32)]
    for _ in range(longest):
        probability, tokens = F.linear(state.to(matrix.dtype), matrix).float().softmax(-1).max(-1)  # (B,), (B,)
        end = tokens.where((end < 0) & torch.isin(tokens, torch.tensor([*ends], device=tokens.device)), end)
        writes = end < 0  # (B,)
        if not writes.any():
            break
        ids.append(tokens.where(writes, -100)[:, None])
        probabilities.append(probability.where(writes, 0)[:, None])
        state = advance(tokens)
    return Written(torch.cat(ids, 1), torch.cat(probabilities, 1), [ends.get(token, "cap") for token in end.tolist()])


class BehindStates:
    """The backbone reads on behind hidden states, which are its only prompt.

    Args:
        backbone: A model without output head.
        states: Its last hidden states.  (B, L, D)
        visible: True at the states that are the prompt, at least one in every row.  (B, L) bool
    """

    def __init__(self, backbone: QwenVLModel, states: Tensor, visible: Tensor) -> None:
        columns = visible_columns(visible)  # (B, K)
        self._backbone, self._cache = backbone, DynamicCache(config=backbone.language_model.config)
        self._inputs, self._mask = states_at(states, columns), visible.gather(1, columns)  # (B, K, D), (B, K)

    def __call__(self, tokens: Tensor | None) -> Tensor:
        """See :class:`Advance`."""
        if tokens is not None:
            self._inputs = self._backbone.get_input_embeddings()(tokens)[:, None]  # (B, 1, D)
            self._mask = F.pad(self._mask, (0, 1), value=True)
        positions = (self._mask.cumsum(1) - 1).clamp(min=0)[:, -self._inputs.shape[1] :]
        output = self._backbone.language_model(
            inputs_embeds=self._inputs,
            attention_mask=self._mask,
            position_ids=positions.expand(3, *positions.shape),
            past_key_values=self._cache,
            use_cache=True,
        )
        state: Tensor = output.last_hidden_state[:, -1]
        return state


class BehindRollout:
    """The backbone reads on behind prompt and latent steps, over the cache that they left.

    Args:
        backbone: A model without output head.
        thought: The latent steps; its cache is extended in place.
    """

    def __init__(self, backbone: QwenVLModel, thought: Rollout) -> None:
        self._backbone, self._first, self._decode_state = backbone, thought.last, thought.decode_state

    def __call__(self, tokens: Tensor | None) -> Tensor:
        """See :class:`Advance`."""
        if tokens is None:
            return self._first
        inputs = self._backbone.get_input_embeddings()(tokens)[:, None]  # (B, 1, D)
        real = torch.ones_like(tokens, dtype=torch.bool)[:, None]  # (B, 1)
        states, self._decode_state = read(self._backbone, inputs, self._decode_state, real)
        return states[:, 0]


class WithDecoder:
    """A decoder other than the backbone reads the whole text again for every token.

    Args:
        decoder: What decodes.
        backbone: The model that has the embeddings.
        states: Last hidden states of the think tokens.  (B, K, D)
        present: True where there is a state, at least one in every row.  (B, K) bool
    """

    def __init__(self, decoder: RationaleDecoder, backbone: QwenVLModel, states: Tensor, present: Tensor) -> None:
        self._decoder, self._backbone, self._states, self._present = decoder, backbone, states, present
        self._ids = torch.zeros(len(states), 0, dtype=torch.long, device=states.device)

    def __call__(self, tokens: Tensor | None) -> Tensor:
        """See :class:`Advance`."""
        if tokens is not None:
            self._ids = torch.cat([self._ids, tokens[:, None]], dim=1)
        ids = F.pad(self._ids, (0, 1))  # (B, R + 1)
        return self._decoder.predicting_states(self._states, self._present, ids, self._backbone)[:, -1]
