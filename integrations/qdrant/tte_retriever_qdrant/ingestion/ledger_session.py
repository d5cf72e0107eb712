"""The ledger of a run, which goes over to the copy of the store when there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tte_retriever_qdrant.ingestion.ledger import LEDGER, Ledger

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from tte_retriever_qdrant.ingestion.ledger import Row
    from tte_retriever_qdrant.stores import VectorStore


class LedgerSession:
    """Keeps the ledger in a store's home, wherever that is.

    As long as no point is to change, the ledger of the generation that is searched is kept up to date; so a run that
    changes none copies none. What it says, it says of the points beside it: of files that are NEW there, and of content
    that is obsolete, a later run knows what to do, whether that finds the copy or goes without.

    Attributes:
        ledger: Where it is now.
    """

    def __init__(self, store: VectorStore) -> None:
        self._store = store
        self._is_begun = False
        self.ledger = Ledger(store.state_dir / LEDGER)

    def begin(self) -> None:
        """Go over to the copy of the store, if it is one that is copied; to be called before its points are touched."""
        if self._is_begun:
            return
        self.ledger.close_for_copy()
        try:
            self._store.begin_update()
            self._is_begun = True
        finally:
            self.ledger = Ledger(self._store.state_dir / LEDGER)
        self.ledger.expect_index()

    def finish(self) -> None:
        """Bring the index up to date with the points that this run has touched, or one that did not get that far."""
        if self.ledger.is_index_due():
            self.begin()
            self._store.finalize()
            self.ledger.index_is_done()

    def record(self, row: Row) -> None:
        """Write a row."""
        self.ledger.record([row])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.ledger.close()
