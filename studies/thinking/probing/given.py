"""Rationales that are given to a model instead of its own: what it predicts along them and what it embeds after them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from tte_retriever.backbones import qwen_vl_model
from tte_retriever.errors import InputError
from tte_retriever.explain.decoding import output_matrix, predicting_states
from tte_retriever.methods.explicit_cot import ExplicitCoT
from tte_retriever.training.explicit_cot.teacher_forced_pass import TeacherForcedPass

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from tte_retriever.backbones import QwenVLModel
    from tte_retriever.encoder import TTEEncoder


@dataclass(frozen=True)
class Reading:
    """The outputs of a model after a given rationale.

    Attributes:
        vectors: Embeddings after the rationales.  (B, E)
        predicted: The likeliest token in place of each of their tokens, given those before it.  (B, R) int64
    """

    vectors: Tensor
    predicted: Tensor


@torch.no_grad()
def read_given_rationales(encoder: TTEEncoder, features: Mapping[str, Any], rationale_ids: Tensor) -> Reading:
    """Embed items after given rationales instead of generated ones.

    Args:
        encoder: A model of the method ``explicit-cot``, in mode ``gen``.
        features: Output of ``encoder.preprocess``.
        rationale_ids: Padded on the right with -100, with or without the embed token at their end; a row of only -100 is
            embedded without a rationale.  (B, R) int64

    Raises:
        InputError: The encoder is of another method or mode.
    """
    transformer = encoder.transformer
    if not isinstance(transformer, ExplicitCoT) or transformer.mode != "gen":
        raise InputError("This model writes no rationale; give one of the method explicit-cot in mode 'gen'.")
    written = TeacherForcedPass(transformer.gen_id).written(rationale_ids)  # (B, R + 1)
    out = encoder({**features, "written_ids": written})
    before = features["input_ids"].shape[1] - 1
    predicting = out["token_embeddings"][:, before : before + rationale_ids.shape[1]]  # (B, R, D)
    return Reading(out["sentence_embedding"], _likeliest(qwen_vl_model(transformer), predicting))


@torch.no_grad()
def predict_from(backbone: QwenVLModel, states: Tensor, visible: Tensor, rationale_ids: Tensor) -> Tensor:
    """The likeliest token in place of each token of given rationales, decoded from hidden states.

    Args:
        backbone: A Qwen-VL model.
        states: Its last hidden states.  (B, L, D)
        visible: True at the hidden states to decode from, at least one in every row.  (B, L) bool
        rationale_ids: Padded on the right with -100.  (B, R) int64

    Returns:
        (B, R) int64.
    """
    return _likeliest(backbone, predicting_states(backbone, states, rationale_ids, visible))


def _likeliest(backbone: QwenVLModel, states: Tensor) -> Tensor:
    matrix = output_matrix(backbone)
    return F.linear(states.to(matrix.dtype), matrix).argmax(-1)
