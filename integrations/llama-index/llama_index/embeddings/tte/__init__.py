"""LlamaIndex embeddings by tte-retriever."""

from __future__ import annotations

from llama_index.embeddings.tte.base import TTEEmbedding

__all__ = ["TTEEmbedding"]
