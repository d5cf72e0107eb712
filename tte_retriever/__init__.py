"""Latent-reasoning multimodal embeddings of text, images, videos and pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tte_retriever.lazy import lazy_names

if TYPE_CHECKING:
    from tte_retriever.building import build
    from tte_retriever.checkpoint import model_path
    from tte_retriever.encoder import TTEEncoder
    from tte_retriever.errors import MediaError, TTEError
    from tte_retriever.media import MediaLimits

__version__ = "0.1.0"
__all__ = ["MediaError", "MediaLimits", "TTEEncoder", "TTEError", "__version__", "build", "model_path"]

_MODULES = {
    "MediaError": "tte_retriever.errors",
    "MediaLimits": "tte_retriever.media",
    "TTEEncoder": "tte_retriever.encoder",
    "TTEError": "tte_retriever.errors",
    "build": "tte_retriever.building",
    "model_path": "tte_retriever.checkpoint",
}
__getattr__, __dir__ = lazy_names(__name__, __all__, _MODULES)  # so that ``import tte_retriever`` does not load torch
