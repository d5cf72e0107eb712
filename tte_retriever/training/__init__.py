"""Training: from a config to a finished checkpoint. What only training needs lives in losses and is never saved with a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tte_retriever.lazy import lazy_names

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
__getattr__, __dir__ = lazy_names(__name__, __all__, _MODULES)  # so that reading a config does not load torch
