"""Direct embedding: nothing between prompt and embed token. The baseline of all other methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tte_retriever.errors import InputError
from tte_retriever.methods import tte_flash

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from tte_retriever.backbones import Backbone, Init


def build(
    backbone: str | Path | Backbone, think_tokens: int = 0, *, init: Init = "keep", seed: int = 0
) -> list[nn.Module]:
    """Turn a Qwen-VL checkpoint into the modules of a direct encoder; see :func:`tte_flash.build`.

    Raises:
        InputError: If ``think_tokens`` is not 0.
    """
    if think_tokens:
        raise InputError(f"think_tokens is {think_tokens}, but direct has none; give 0, or use tte-flash.")
    return tte_flash.build(backbone, 0, init=init, seed=seed)
