"""Freeze parts of a backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import nn

    from tte_retriever.training.config import Part


def freeze(backbone: nn.Module, parts: Collection[Part]) -> None:
    """Exclude parts from training, in place. Call it before the optimiser is made.

    Args:
        backbone: A Qwen-VL model, with or without adapters.
        parts: ``vision`` is the vision tower without its mergers, ``merger`` the projection of its output into the
            language model, ``language`` the language model with its embedding matrix, and ``backbone`` everything but the
            rows of the new tokens, which :mod:`~tte_retriever.training.lora` has made parameters of their own.
    """
    for name, parameter in backbone.named_parameters():
        owner = "language" if "visual." not in name else "merger" if "merger" in name else "vision"
        if owner in parts or ("backbone" in parts and "trainable_tokens_delta" not in name):
            parameter.requires_grad_(False)
