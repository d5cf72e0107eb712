"""What ingestion and search need of a model; every ``TTEEncoder`` has all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import numpy as np

    from tte_retriever.media import VideoSampling
    from tte_retriever.sources import Item


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


@runtime_checkable
class StreamingEncoder(Encoder, Protocol):
    """A model that can also take a stream, which keeps it busy; of any other, ingestion makes calls with batches."""

    @property
    def prompts(self) -> Mapping[str, str | None]:
        """What is put before items, by name."""
        ...

    def embed(
        self, inputs: Iterable[Item], *, look_ahead: int, prompt_name: str | None, on_error: Literal["raise", "yield"]
    ) -> Iterator[Any]:
        """Encode items in order, and with ``on_error="yield"`` give the error in the place of a vector (D,)."""
        ...
