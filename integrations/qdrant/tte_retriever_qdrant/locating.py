"""Where the file of a hit is: stores know paths under a folder only, and the ledger which folder that was."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tte_retriever.errors import InputError
from tte_retriever.media import DEFAULT_LIMITS
from tte_retriever_qdrant.ingestion.ledger import LEDGER, Ledger
from tte_retriever_qdrant.ingestion.planning import asset_id_of

if TYPE_CHECKING:
    from tte_retriever_qdrant.searching import SearchHit
    from tte_retriever_qdrant.stores import VectorStore


def locate(store: VectorStore, hit: SearchHit, root: Path | None = None) -> Path:
    """Find the file of a hit, and make sure that it is what was indexed.

    Args:
        store: The open store that the hit is from.
        hit: What was found.
        root: The folder that was indexed, where it is now; ``None`` for where it was, as this machine's ledger says.

    Raises:
        InputError: The file is not there, or has changed.
        MediaError: It cannot be read.
    """
    folders = [root] if root is not None else _folders(store, hit)
    for folder in folders:
        path = (folder / hit.uri).resolve()
        if path.is_relative_to(folder.resolve()) and path.is_file():
            if asset_id_of(path, DEFAULT_LIMITS) != hit.asset_id:
                raise InputError(f"{str(path)!r} has changed since it was indexed; bring the store up to date first")
            return path
    where = " or ".join(repr(str(folder)) for folder in folders) or "any folder that was indexed on this machine"
    raise InputError(f"{hit.uri!r} is not in {where}; give the folder that was indexed, where it is now (--root)")


def _folders(store: VectorStore, hit: SearchHit) -> list[Path]:
    path = store.home / LEDGER
    if not path.is_file():
        return []
    with Ledger(path) as ledger:
        return [Path(root) for root in ledger.roots(hit.asset_id, hit.uri)]
