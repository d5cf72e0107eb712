"""What every engine does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    import numpy as np
    from typing_extensions import Self

    from tte_retriever_qdrant.filters import Filter
    from tte_retriever_qdrant.records import CollectionSpec, GenerationInfo, Hit, Point, Role

QUANTIZE_FROM = 10_000
"""Number of points from which there is an index, of int8 vectors; its best matches are scored with the originals."""

HNSW_EF = 256
"""Candidates that a search of an index keeps."""

OVERSAMPLING = 3.0
"""How many times more int8 matches than hits are scored with the original vectors."""

FULL, PREFIX = "full", "prefix"
"""Names of the two vectors of a point in a collection with prefixes; where there are none, its vector has no name."""


SCROLL_PAGE = 128
"""Points that are read at a time; 10 MB of JSON at 4096 dimensions."""


def candidates(limit: int) -> int:
    """How many points are found by their prefix, to be scored by their full vectors."""
    return max(100, 10 * limit)


class Generations(Protocol):
    """The generations of a store, none of them opened, so that it does not matter who has one open."""

    def listed(self) -> list[GenerationInfo]:
        """All of them, the current one first."""
        ...

    def commit(self) -> None:
        """Make the next generation the current one, as :meth:`VectorStore.commit` does.

        Raises:
            InputError: There is none.
            StoreLocked: A process is filling it; only an edge store can tell.
        """
        ...

    def rollback(self) -> None:
        """As :meth:`VectorStore.rollback`."""
        ...

    def drop(self, role: Role) -> None:
        """Remove a generation.

        Raises:
            InputError: It is the current one, or there is none.
            StoreLocked: A process has it open; only an edge store can tell.
        """
        ...


class VectorStore(Protocol):
    """One collection of points of one model, searched by cosine similarity.

    A store has generations, of which :func:`open_store` opens the current one. A re-embedding writes the next one beside
    it (:meth:`begin_generation`), makes it the current one when it is complete (:meth:`commit`), and can be undone
    (:meth:`rollback`). An open store stays with the generation that it opened, whose model it was opened for, until
    that is two commits old.

    Every method raises ``StoreError`` when the engine fails or the store is closed, and all that need a collection
    raise ``StoreNotFound`` as long as nothing was stored. Of the errors of a server, ``StoreUnavailable`` may pass.
    """

    @property
    def spec(self) -> CollectionSpec | None:
        """What the collection holds; ``None`` until :meth:`ensure` has made it."""
        ...

    @property
    def state_dir(self) -> Path:
        """A directory for what belongs beside the vectors, such as the ledger; every generation has its own."""
        ...

    def ensure(self, spec: CollectionSpec) -> None:
        """Make the collection if it is not there.

        Raises:
            ModelMismatch: It is there, and made by another model.
            InputError: It is there, with another prefix.
        """
        ...

    def begin_update(self) -> None:
        """Get ready for writes: of a store opened by :func:`updating`, make the copy, whose :attr:`state_dir` is another one.

        Reading or writing points does it too; call it first if you keep files in :attr:`state_dir`.

        Raises:
            StoreLocked: A process that has the generation open does not let go of it.
        """
        ...

    def upsert(self, points: Sequence[Point]) -> None:
        """Write points, replacing those with the same id; durable on return.

        Raises:
            InputError: A point with a bad id, or a vector that is not finite, all zero or of the wrong length; then
                none of the points is written.
        """
        ...

    def search(
        self, vector: np.ndarray, limit: int, filter: Filter | None = None, *, exact: bool = False
    ) -> list[Hit]:
        """The ``limit`` points nearest to ``vector`` (D,), best first; ``exact`` compares with all, without index."""
        ...

    def query_batch(
        self, vectors: Iterable[np.ndarray], limit: int, filter: Filter | None = None, *, exact: bool = False
    ) -> list[list[Hit]]:
        """What :meth:`search` finds for each of ``vectors`` (N, D), in one request."""
        ...

    def sample(self, n: int) -> np.ndarray:
        """Vectors of up to ``n`` points, (N, D), the same ones each time; ids that are hashes make it a fair sample."""
        ...

    def scroll(self) -> Iterator[Point]:
        """Every point, with its vector as it is stored, of length 1; a page of them in memory at a time."""
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

    def begin_generation(self, spec: CollectionSpec) -> VectorStore:
        """Open the next generation, to be filled and then committed, while this one is searched.

        One that was begun for the same model and not committed is resumed; one for another model is dropped.

        Raises:
            StoreLocked: Another process is filling it.
            InputError: It was begun with another prefix.
        """
        ...

    def commit(self) -> None:
        """Make this generation, which :meth:`begin_generation` opened, the current one.

        The generation that was current until now is kept for :meth:`rollback`; the one before it is dropped.

        Raises:
            InputError: This is not a generation that was begun, or it has been replaced since.
        """
        ...

    def rollback(self) -> None:
        """Make the generation before the last commit the current one, for those who open the store from now on.

        Rolling back again undoes it.

        Raises:
            InputError: There is no generation to go back to.
        """
        ...

    def close(self) -> None:
        """Let go of files and locks; closing twice does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
