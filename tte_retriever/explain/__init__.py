"""Read the thought behind an embedding: as text, and by what changes when another thought takes its place."""

from __future__ import annotations

from tte_retriever.explain.rationales import Rationale, read_rationale
from tte_retriever.explain.writing import RationaleDecoder

__all__ = ["Rationale", "RationaleDecoder", "read_rationale"]
