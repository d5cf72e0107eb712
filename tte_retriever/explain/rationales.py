"""Rationales out of a thought: what the backbone writes behind the states that it was trained to decode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.nn import functional as F
from transformers import DynamicCache

from tte_retriever.errors import InputError
from tte_retriever.explain.decoding import output_matrix, predicting_states, states_at, visible_columns
from tte_retriever.methods.explicit_cot import ExplicitCoT
from tte_retriever.training.explicit_cot.teacher_forced_pass import TeacherForcedPass

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from tte_retriever.encoder import TTEEncoder


@torch.no_grad()
def write_from(backbone: nn.Module, states: Tensor, visible: Tensor, *, end_id: int, longest: int) -> Tensor:
    """Write rationales greedily behind a soft prompt, as :func:`rationale_nll` reads them without a prefill.

    Args:
        backbone: A Qwen-VL model; its ``language_model`` is the decoder.
        states: Its last hidden states.  (B, L, D)
        visible: True at those that are the soft prompt, at least one in every row.  (B, L) bool
        end_id: The token that ends a rationale; it is no part of what is returned.
        longest: Most tokens that are written.

    Returns:
        (B, R) int64, padded on the right with -100.
    """
    model, matrix = cast("Any", backbone), output_matrix(backbone)
    columns = visible_columns(visible)  # (B, K)
    inputs, mask, cache = states_at(states, columns), visible.gather(1, columns), DynamicCache()
    written: list[Tensor] = []
    writes = torch.ones(len(states), dtype=torch.bool, device=states.device)  # (B,)
    while len(written) < longest and writes.any():
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -inputs.shape[1] :]
        hidden = model.language_model(
            inputs_embeds=inputs,
            attention_mask=mask,
            position_ids=positions.expand(3, *positions.shape),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        tokens = F.linear(hidden[:, -1].to(matrix.dtype), matrix).argmax(-1)  # (B,)
        writes = writes & (tokens != end_id)
        written.append(tokens.where(writes, -100))
        inputs = model.get_input_embeddings()(tokens)[:, None]  # (B, 1, D)
        mask = F.pad(mask, (0, 1), value=True)  # (B, K + 1), then one more each time
    return torch.stack(written, dim=1)  # (B, R)


@torch.no_grad()
def predict_from(backbone: nn.Module, states: Tensor, visible: Tensor, rationale_ids: Tensor) -> Tensor:
    """The likeliest token at each place of rationales that are read behind a soft prompt: teacher forcing.

    Args:
        backbone: As for :func:`write_from`.
        states: As for :func:`write_from`.
        visible: As for :func:`write_from`.
        rationale_ids: Padded on the right with -100.  (B, R) int64

    Returns:
        (B, R) int64.
    """
    predicting = predicting_states(backbone, states, rationale_ids, visible)  # (B, R, D)
    return _likeliest(backbone, predicting)


@dataclass(frozen=True)
class Reading:
    """What an explicit chain of thought makes of a rationale that it is given.

    Attributes:
        vectors: The embeddings after it.  (B, E)
        predicted: The likeliest token at each of its places.  (B, R) int64
    """

    vectors: Tensor
    predicted: Tensor


@torch.no_grad()
def read_rationale(encoder: TTEEncoder, features: Mapping[str, Any], rationale_ids: Tensor) -> Reading:
    """Have a model that thinks in words read rationales in place of its own.

    Args:
        encoder: Of the method ``explicit-cot``, in mode ``gen``.
        features: As ``encoder.preprocess`` makes them.
        rationale_ids: Padded on the right with -100, with the embed token at their end or without; a row of only -100 is
            embedded without a rationale.  (B, R) int64

    Raises:
        InputError: If the encoder thinks otherwise.
    """
    transformer = encoder.transformer
    if not isinstance(transformer, ExplicitCoT) or transformer.mode != "gen":
        raise InputError(
            "This model reads no rationale; give one of the method explicit-cot, and leave its mode at 'gen'."
        )
    written = TeacherForcedPass(transformer.gen_id).written(rationale_ids)  # (B, R + 1)
    out = encoder({**features, "written_ids": written})
    before = features["input_ids"].shape[1] - 1
    predicting = out["token_embeddings"][:, before : before + rationale_ids.shape[1]]  # (B, R, D)
    return Reading(out["sentence_embedding"], _likeliest(transformer.model, predicting))


def _likeliest(backbone: nn.Module, states: Tensor) -> Tensor:
    matrix = output_matrix(backbone)
    return F.linear(states.to(matrix.dtype), matrix).argmax(-1)
