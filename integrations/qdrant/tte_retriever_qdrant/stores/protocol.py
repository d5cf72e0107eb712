"""What every engine does: :class:`VectorStore` holds points, :class:`GenerationalStore` can replace them all at once."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from typing_extensions import Self

    from tte_retriever_qdrant.filters import Filter
    from tte_retriever_qdrant.records import CollectionSpec, GenerationInfo, Hit, Point, Role


class VectorStore(Protocol):
    """One collection of points of one model, searched by cosine similarity.

    Every method raises ``StoreError`` when the engine fails or the store is closed. Methods that need a collection raise
    ``StoreNotFound`` while nothing is stored. After a server's ``StoreUnavailable``, the same call may succeed later.

    Example:
        >>> import numpy as np
        >>> from tte_retriever_qdrant.records import CollectionSpec, Point
        >>> from tte_retriever_qdrant.stores import VectorStore, open_store
        >>> def nearest(store: VectorStore, vector: np.ndarray) -> str:
        ...     return store.search(vector, limit=1)[0].payload["uri"]
        >>> with open_store("memory://") as store:
        ...     store.ensure(CollectionSpec(dim=2, fingerprint="a model"))
        ...     store.upsert([Point("00000000-0000-0000-0000-000000000001", np.array([0.6, 0.8]), {"uri": "red.png"})])
        ...     nearest(store, np.array([1.0, 0.0]))
        'red.png'
    """

    @property
    def spec(self) -> CollectionSpec | None:
        """What the collection holds; ``None`` until :meth:`ensure` has made it."""

    @property
    def state_dir(self) -> Path:
        """The directory of files that belong to the vectors, such as the ledger; each generation has its own."""

    def ensure(self, spec: CollectionSpec) -> None:
        """Make the collection unless it exists.

        Raises:
            ModelMismatch: It exists, with vectors of another model.
            InputError: It exists, with another prefix.
        """

    def begin_update(self) -> None:
        """Prepare for writes: a store opened by :func:`updating` is copied, which changes its :attr:`state_dir`.

        Reading or writing points does this, too. Call it before you write files to :attr:`state_dir`.

        Raises:
            StoreLocked: Another process keeps the generation open.
        """

    def upsert(self, points: Sequence[Point]) -> None:
        """Write points, replacing those with the same id; they are durable on return.

        Raises:
            InputError: A point has a bad id, or a vector that is not finite, is all zero or has the wrong length. Then
                no point is written.
        """

    def search(
        self, vector: np.ndarray, limit: int, filter: Filter | None = None, *, exact: bool = False
    ) -> list[Hit]:
        """The ``limit`` points nearest to ``vector`` (D,), best first; ``exact`` compares with all, without the index."""
        return self.query_batch([vector], limit, filter, exact=exact)[0]

    def query_batch(
        self, vectors: Iterable[np.ndarray], limit: int, filter: Filter | None = None, *, exact: bool = False
    ) -> list[list[Hit]]:
        """The hits of :meth:`search` for each of ``vectors`` (N, D), in one request."""

    def sample(self, n: int) -> np.ndarray:
        """Vectors (N, D) of up to ``n`` points, the same each time; ids are hashes, so the sample is fair."""
        vectors = [point.vector for point in islice(self.scroll(), n)]
        return np.stack(vectors) if vectors else np.empty((0, self.spec.dim if self.spec else 0), np.float32)

    def scroll(self) -> Iterator[Point]:
        """Every point, with its stored vector of length 1; one page of points is in memory at a time."""

    def exists(self, ids: Sequence[str]) -> set[str]:
        """Those of ``ids`` that are in the collection."""

    def count(self, filter: Filter | None = None) -> int:
        """The exact number of points that match."""

    def delete(self, ids: Sequence[str] | None = None, *, filter: Filter | None = None) -> None:
        """Delete points, either by id or by filter; durable on return."""

    def finalize(self) -> None:
        """Update the index after many writes; without it, searches are right but slower."""

    def close(self) -> None:
        """Release files and locks; closing twice does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


class GenerationalStore(VectorStore, Protocol):
    """A store whose points can be replaced by those of another model, all at once.

    :func:`open_store` opens the current generation. A re-embedding fills the next one beside it
    (:meth:`begin_generation`), makes it the current one when it is complete (:meth:`commit`), and can be undone
    (:meth:`rollback`). An open store keeps its generation and model until that generation is two commits old.

    Example:
        >>> from tte_retriever_qdrant.records import CollectionSpec
        >>> from tte_retriever_qdrant.stores import GenerationalStore, open_store
        >>> def replace(store: GenerationalStore, spec: CollectionSpec) -> str:
        ...     with store.begin_generation(spec) as new:
        ...         new.commit()  # after new.upsert(…)
        ...         return new.spec.fingerprint
        >>> with open_store("memory://") as store:
        ...     store.ensure(CollectionSpec(dim=2, fingerprint="old model"))
        ...     replace(store, CollectionSpec(dim=3, fingerprint="new model"))
        'new model'
    """

    def begin_generation(self, spec: CollectionSpec) -> GenerationalStore:
        """Open the next generation to fill it, while this one is searched.

        An uncommitted generation of the same model is resumed; one of another model is dropped.

        Raises:
            StoreLocked: Another process is filling it.
            InputError: It was begun with another prefix.
        """

    def commit(self) -> None:
        """Make this generation, which :meth:`begin_generation` opened, the current one.

        The generation that was current is kept for :meth:`rollback`; the one before it is dropped.

        Raises:
            InputError: This generation was not begun, or has been replaced since.
        """

    def rollback(self) -> None:
        """Make the generation before the last commit the current one, for stores opened from now on.

        Rolling back again undoes it.

        Raises:
            InputError: There is no generation to go back to.
        """


class Generations(Protocol):
    """The generations of a store that this process need not have open."""

    def listed(self) -> list[GenerationInfo]:
        """All generations, the current one first."""

    def commit(self) -> None:
        """Make the next generation the current one, as :meth:`GenerationalStore.commit` does.

        Raises:
            InputError: There is no next generation.
            StoreLocked: A process is filling it; only an edge store notices.
        """

    def rollback(self) -> None:
        """As :meth:`GenerationalStore.rollback`."""

    def drop(self, role: Role) -> None:
        """Delete a generation.

        Raises:
            InputError: It is the current one, or does not exist.
            StoreLocked: A process has it open; only an edge store notices.
        """
