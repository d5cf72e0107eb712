"""Find the file of a hit: stores hold paths under a folder, and the ledger holds the folder."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

from tte_retriever.errors import InputError, MediaError
from tte_retriever.media import DEFAULT_LIMITS
from tte_retriever.sources.identity import asset_id_of
from tte_retriever_qdrant.ingestion.ledger import LEDGER, Ledger

if TYPE_CHECKING:
    from tte_retriever_qdrant.searching import SearchHit
    from tte_retriever_qdrant.stores import VectorStore


def locate(store: VectorStore, hit: SearchHit, root: Path | None = None) -> Path:
    """Find the file of a hit, and check that it is unchanged.

    Args:
        store: The open store that the hit is from.
        hit: A hit of a search.
        root: Where the indexed folder is now; ``None`` is where it was, according to this machine's ledger.

    Raises:
        InputError: The file is missing or has changed.
        MediaError: It cannot be read.
    """
    folders = [root] if root is not None else _folders(store, hit)
    failures = []
    for folder in folders:
        try:
            path = file_under(folder, hit.uri)
        except MediaError as error:
            failures.append(f"{error}")
            continue
        if asset_id_of(path, DEFAULT_LIMITS) != hit.asset_id:
            raise InputError(f"{str(path)!r} has changed since it was indexed; index it again first")
        return path
    nowhere = f"{hit.uri!r} is not in any folder that was indexed on this machine; give the folder where it is now"
    raise InputError(f"{'; '.join(failures) or nowhere} (--root)")


def file_under(folder: Path, uri: str) -> Path:
    """Resolve a URI of a store to a path under the folder that was indexed.

    Raises:
        MediaError: The file does not exist (``missing``), is outside the folder (``not-allowed``), or its path cannot be
            followed (``unreadable``).
    """
    place = f"in {str(folder)!r}"
    try:
        path = (folder / uri).resolve()
        inside = path.is_relative_to(folder.resolve())
        there = inside and stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        there = False
    except (OSError, RuntimeError, ValueError) as error:
        # Before Python 3.13, links in a circle raise RuntimeError; a NUL in a name raises ValueError.
        message = f"{uri!r} {place} cannot be read: {error}; make it readable, or give the folder where it is now"
        raise MediaError(message, "unreadable") from error
    if not inside:
        raise MediaError(
            f"{uri!r} is not in {str(folder)!r} but outside; give the folder that was indexed", "not-allowed"
        )
    if not there:
        message = f"{uri!r} is not {place}; index it again, or give the folder where it is now"
        raise MediaError(message, "missing")
    return path


def _folders(store: VectorStore, hit: SearchHit) -> list[Path]:
    path = store.state_dir / LEDGER
    if not path.is_file():
        return []
    with Ledger(path) as ledger:
        return [Path(root) for root in ledger.roots(hit.asset_id, hit.uri)]
