"""Ingestion beyond one machine: the same steps, as stages of Ray Data."""

from __future__ import annotations

from tte_retriever_qdrant.distributed.pipeline import ingest_on_ray

__all__ = ["ingest_on_ray"]
