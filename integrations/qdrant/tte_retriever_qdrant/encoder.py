"""What ingestion and search need of a model; every ``TTEEncoder`` has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np

    from tte_retriever.media import VideoSampling

Item: TypeAlias = Mapping[str, Any]
"""Decoded media under the keys ``text``, ``image`` and ``video``."""


class Encoder(Protocol):
    """A model that turns items into vectors of one space."""

    @property
    def fingerprint(self) -> str:
        """Identity of the weights and settings: equal fingerprints mean comparable vectors."""
        ...

    @property
    def video_sampling(self) -> VideoSampling:
        """Which frames of a video the model wants to see."""
        ...

    def get_embedding_dimension(self) -> int | None:
        """Length of the vectors."""
        ...

    def encode_document(self, inputs: list[Item], *, batch_size: int, show_progress_bar: bool) -> np.ndarray:
        """Encode what is searched; returns shape (N, D)."""
        ...

    def encode_query(self, inputs: list[Item], *, batch_size: int, show_progress_bar: bool) -> np.ndarray:
        """Encode what is searched for; returns shape (N, D)."""
        ...
