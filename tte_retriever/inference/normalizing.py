"""Vectors of norm 1, whatever the dtype of the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sentence_transformers.base.modules import Normalize

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn


def normalize_in_float32(modules: Iterable[nn.Module]) -> None:
    """Let the ``Normalize`` modules of a model compute in float32: a norm in bfloat16 is off by up to 4e-3."""
    for module in modules:
        if isinstance(module, Normalize):
            module.register_forward_pre_hook(_to_float32)


def _to_float32(_module: nn.Module, inputs: tuple[dict[str, Any]]) -> None:
    features = inputs[0]
    if "sentence_embedding" in features:
        features["sentence_embedding"] = features["sentence_embedding"].float()
