"""LlamaIndex embeddings, a reader and a retriever by tte-retriever."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from llama_index.embeddings.tte.base import TTEEmbedding
from llama_index.embeddings.tte.parts import VideoClip
from llama_index.embeddings.tte.reporting import BadMediaEvent

if TYPE_CHECKING:
    from llama_index.embeddings.tte.reader import TTEMediaReader
    from llama_index.embeddings.tte.retriever import MediaQuery, TTERetriever

__all__ = ["BadMediaEvent", "MediaQuery", "TTEEmbedding", "TTEMediaReader", "TTERetriever", "VideoClip"]

_MODULES = {
    "MediaQuery": "llama_index.embeddings.tte.retriever",
    "TTEMediaReader": "llama_index.embeddings.tte.reader",
    "TTERetriever": "llama_index.embeddings.tte.retriever",
}


def __getattr__(name: str) -> Any:
    """Import the reader and the retriever on first use; only the retriever needs tte-retriever-qdrant."""
    if name not in _MODULES:
        raise AttributeError(f"module 'llama_index.embeddings.tte' has no attribute {name!r}; it has {__all__}")
    try:
        return getattr(importlib.import_module(_MODULES[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "tte_retriever_qdrant":
            raise
        message = f"{name} needs tte-retriever-qdrant: pip install 'llama-index-embeddings-tte[qdrant]'"
        raise ImportError(message) from error


def __dir__() -> list[str]:
    return __all__
