"""Freeze parts of a backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import nn

    from tte_retriever.training.config import Part


def freeze(backbone: nn.Module, parts: Iterable[Part]) -> None:
    """Exclude parts from training, in place. Call it before the optimiser is made.

    Args:
        backbone: A Qwen-VL model, with or without adapters.
        parts: ``vision`` is the vision tower without its mergers, ``merger`` the projection of its output into the
            language model, ``language`` the language model with its embedding matrix, and ``backbone`` everything but the
            rows of the new tokens, which :mod:`~tte_retriever.training.lora` has made parameters of their own.
    """
    for part in parts:
        for parameter in part_parameters(backbone, part):
            parameter.requires_grad_(False)


def part_parameters(backbone: nn.Module, part: Part) -> Iterator[nn.Parameter]:
    """The parameters of one part."""
    for name, parameter in backbone.named_parameters():
        visual = "visual." in name
        owner = "language" if not visual else "merger" if "merger" in name else "vision"
        if part == owner or (part == "backbone" and "trainable_tokens_delta" not in name):
            yield parameter
