"""Ingestion beyond one machine: the same steps, as stages of Ray Data."""

from __future__ import annotations

from tte_retriever_qdrant.distributed.cluster import connected
from tte_retriever_qdrant.distributed.describing import Description, describe_on_ray
from tte_retriever_qdrant.distributed.pipeline import ingest_on_ray

__all__ = ["Description", "connected", "describe_on_ray", "ingest_on_ray"]
