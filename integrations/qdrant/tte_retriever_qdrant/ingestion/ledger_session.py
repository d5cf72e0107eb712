"""The ledger of a run, which switches to the copy of the store on the first write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tte_retriever_qdrant.ingestion.ledger import LEDGER, Ledger

if TYPE_CHECKING:
    from typing_extensions import Self

    from tte_retriever_qdrant.ingestion.state import FileRecord
    from tte_retriever_qdrant.stores import VectorStore


class LedgerSession:
    """Keeps the ledger in the state directory of a store, also when the store becomes a copy.

    As long as no point changes, the ledger of the generation that is searched is kept up to date, so a run that changes
    no point copies nothing. A ledger always describes the points beside it: a later run continues from the ledger that
    it finds, of the copy or of the original.

    Attributes:
        ledger: The ledger of the store as it is now.
    """

    def __init__(self, store: VectorStore) -> None:
        self._store = store
        self._has_begun = False
        self.ledger = Ledger(store.state_dir / LEDGER)

    def begin(self) -> None:
        """Prepare for a change of points; a store that is updated in a copy switches to it."""
        if self._has_begun:
            return
        self.ledger.close_for_copy()
        try:
            self._store.begin_update()
            self._has_begun = True
        finally:
            self.ledger = Ledger(self._store.state_dir / LEDGER)
        self.ledger.set_index_due()

    def delete_obsolete(self) -> bool:
        """Delete the points that no file has any more; returns whether there were any."""
        obsolete = self.ledger.obsolete()
        if obsolete:
            self.begin()
            self._store.delete(filter={"asset_id": obsolete})
        self.ledger.clear_obsolete()
        return bool(obsolete)

    def finish(self) -> None:
        """Bring the index up to date with the points that this run, or an interrupted one, has changed."""
        if self.ledger.is_index_due():
            self.begin()
            self._store.finalize()
            self.ledger.clear_index_due()

    def record(self, record: FileRecord) -> None:
        """Write a record."""
        self.ledger.write([record])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.ledger.close()
