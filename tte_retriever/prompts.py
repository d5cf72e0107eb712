"""Which of a model's prompts belongs to queries, and which to documents."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container

_DOCUMENT = ("document", "passage", "corpus")  # in the order in which sentence-transformers looks for them


def query_prompt_name(prompts: Container[str]) -> str | None:
    """The name of the prompt of ``encode_query``; ``None`` if there is none among ``prompts``."""
    return "query" if "query" in prompts else None


def document_prompt_name(prompts: Container[str]) -> str | None:
    """The name of the prompt of ``encode_document``; ``None`` if there is none among ``prompts``."""
    return next((name for name in _DOCUMENT if name in prompts), None)
