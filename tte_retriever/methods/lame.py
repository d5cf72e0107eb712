"""LaME (arXiv 2606.13061), our reading: K reason tokens, then an embed token, in one prefill.

Its reason tokens are the think tokens of the vocabulary. At inference LaME and TTE-Flash are the same model; they differ in
the training loss, :class:`tte_retriever.training.lame.loss.LameLoss`. Its authors' code is public and was not read for this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tte_retriever.errors import InputError
from tte_retriever.methods import tte_flash

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from tte_retriever.backbones import Backbone, Init


def build(
    backbone: str | Path | Backbone, think_tokens: int, *, init: Init = "keep", seed: int = 0
) -> list[nn.Module]:
    """Turn a Qwen-VL checkpoint into the modules of a LaME encoder; see :func:`tte_flash.build`.

    Args:
        backbone: As there.
        think_tokens: K, the number of reason tokens, which is the capacity of the bottleneck; 1 or more.
        init: As there.
        seed: As there.

    Raises:
        InputError: If ``think_tokens`` is 0.
        CheckpointError: As there.
    """
    if not think_tokens:
        raise InputError("think_tokens is 0, but lame needs reason tokens; give 1 or more, or use direct.")
    return tte_flash.build(backbone, think_tokens, init=init, seed=seed)
