"""What ingestion and search need of a model; a ``TTEEncoder`` has all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from tte_retriever.errors import InputError
from tte_retriever_qdrant.records import CollectionSpec

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

    @property
    def video_sampling(self) -> VideoSampling:
        """Which frames of a video the model sees."""

    def get_embedding_dimension(self) -> int | None:
        """Length of the vectors."""

    def encode_document(self, inputs: list[Item], *, batch_size: int, show_progress_bar: bool) -> np.ndarray:
        """Encode N items that are searched; returns vectors of shape (N, D)."""

    def encode_query(
        self, inputs: list[Item], *, batch_size: int, show_progress_bar: bool, **options: Any
    ) -> np.ndarray:
        """Encode N queries; returns vectors of shape (N, D). Options are ``prompt`` and those of :func:`query_options`."""


@runtime_checkable
class StreamingEncoder(Encoder, Protocol):
    """A model that also encodes a stream, which keeps it busy; any other model gets batches."""

    @property
    def prompts(self) -> Mapping[str, str | None]:
        """Texts that are put before items, by name."""

    def embed(
        self, inputs: Iterable[Item], *, look_ahead: int, prompt_name: str | None, on_error: Literal["raise", "yield"]
    ) -> Iterator[Any]:
        """Encode items in order to vectors (D,); ``on_error="yield"`` gives an item's error in place of its vector."""


@runtime_checkable
class ThinkingEncoder(Encoder, Protocol):
    """A model with a think budget and a pixel limit, which a collection remembers; a ``TTEEncoder`` is one."""

    max_pixels: int | None
    think_budget: int | None

    @property
    def max_budget(self) -> int:
        """The largest think budget."""

    @property
    def document_fingerprint(self) -> str:
        """The fingerprint without the prompts of queries."""


def spec_of(encoder: Encoder, model_name: str = "", *, prefix: int = 0) -> CollectionSpec:
    """What a collection of a model's vectors holds.

    Args:
        encoder: The model.
        model_name: Name or folder by which it can be loaded again.
        prefix: Of a Matryoshka model, by how many leading dimensions candidates are found; 0 for none.

    Raises:
        InputError: The model does not say how long its vectors are.
    """
    dim = encoder.get_embedding_dimension()
    if dim is None:
        raise InputError("the model does not say how long its vectors are; give a complete embedding model")
    if not isinstance(encoder, ThinkingEncoder):
        return CollectionSpec(dim, encoder.fingerprint, model_name, prefix)
    budget = None if encoder.think_budget == encoder.max_budget else encoder.think_budget
    documents = encoder.document_fingerprint
    return CollectionSpec(dim, encoder.fingerprint, model_name, prefix, documents, budget, encoder.max_pixels)


def query_options(encoder: Encoder, spec: CollectionSpec) -> dict[str, Any]:
    """The think budget and the pixel limit of a query: the encoder's own, else those of the collection."""
    if not isinstance(encoder, ThinkingEncoder):
        return {}
    options = {name: getattr(spec, name) for name in ("think_budget", "max_pixels") if getattr(encoder, name) is None}
    return {name: value for name, value in options.items() if value is not None}
