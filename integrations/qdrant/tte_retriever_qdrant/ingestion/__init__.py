"""From files to points: discover, plan, decode, embed, write."""

from __future__ import annotations

from tte_retriever_qdrant.ingestion.discovery import discover
from tte_retriever_qdrant.ingestion.events import Event, Failure, NearDuplicate, Report
from tte_retriever_qdrant.ingestion.pipeline import ingest
from tte_retriever_qdrant.ingestion.units import Unit, units

__all__ = ["Event", "Failure", "NearDuplicate", "Report", "Unit", "discover", "ingest", "units"]
