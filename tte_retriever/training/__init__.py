"""Training: from a config to a finished checkpoint. What only training needs lives in losses and is never saved with a model."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tte_retriever.training.config_files import read_config
    from tte_retriever.training.run import train
    from tte_retriever.training.tte_flash.loss import TTELoss

__all__ = ["TTELoss", "read_config", "train"]

_MODULES = {
    "TTELoss": "tte_retriever.training.tte_flash.loss",
    "read_config": "tte_retriever.training.config_files",
    "train": "tte_retriever.training.run",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use: reading a config loads no torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
