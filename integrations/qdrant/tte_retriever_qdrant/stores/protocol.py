"""What every engine does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    import numpy as np
    from typing_extensions import Self

    from tte_retriever_qdrant.filters import Filter
    from tte_retriever_qdrant.records import CollectionSpec, Hit, Point


class VectorStore(Protocol):
    """One collection of points of one model, searched by cosine similarity.

    Every method raises ``StoreError`` when the engine fails or the store is closed, and all but :meth:`ensure` raise
    ``StoreNotFound`` as long as nothing was stored.
    """

    @property
    def spec(self) -> CollectionSpec | None:
        """What the collection holds; ``None`` until :meth:`ensure` has made it."""
        ...

    @property
    def home(self) -> Path:
        """A directory for what belongs beside the vectors, such as the ledger; it lives as long as they do."""
        ...

    def ensure(self, spec: CollectionSpec) -> None:
        """Make the collection if it is not there.

        Raises:
            ModelMismatch: It is there, and made by another model.
        """
        ...

    def upsert(self, points: Sequence[Point]) -> None:
        """Write points, replacing those with the same id; durable on return.

        Raises:
            InputError: A point with a bad id, or a vector that is not finite, all zero or of the wrong length; then
                none of the points is written.
        """
        ...

    def search(self, vector: np.ndarray, limit: int, filter: Filter | None = None) -> list[Hit]:
        """The ``limit`` points nearest to ``vector`` (D,), best first."""
        ...

    def exists(self, ids: Sequence[str]) -> set[str]:
        """Those of ``ids`` that are in the collection."""
        ...

    def count(self, filter: Filter | None = None) -> int:
        """How many points match, exactly."""
        ...

    def delete(self, ids: Sequence[str] | None = None, *, filter: Filter | None = None) -> None:
        """Delete points by id or, with ``filter`` instead, those that match; durable on return."""
        ...

    def finalize(self) -> None:
        """Bring the index up to date after many writes; searches are right without it, but slower."""
        ...

    def close(self) -> None:
        """Let go of files and locks; closing twice does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
