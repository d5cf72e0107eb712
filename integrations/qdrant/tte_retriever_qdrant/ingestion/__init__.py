"""From files to points: discover, plan, decode, embed, write."""

from __future__ import annotations

from tte_retriever_qdrant.ingestion.events import Event, Failure, NearDuplicate, Report
from tte_retriever_qdrant.ingestion.pipeline import ingest

__all__ = ["Event", "Failure", "NearDuplicate", "Report", "ingest"]
