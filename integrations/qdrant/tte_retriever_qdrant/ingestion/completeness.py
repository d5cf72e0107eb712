"""Whether a re-embedding has all that the generation before it has."""

from __future__ import annotations

from pathlib import Path

from tte_retriever_qdrant.ingestion.ledger import LEDGER, Ledger


def missing_sources(old: Path, new: Path) -> list[Path]:
    """The files that one generation has and another was never given, as far as this machine's ledgers know.

    Args:
        old: Home of the generation that is searched.
        new: Home of the one that is to take its place.

    Returns:
        Those of them that are still there, in the order of their names.
    """
    if not (old / LEDGER).is_file():
        return []
    with Ledger(old / LEDGER) as before, Ledger(new / LEDGER) as after:
        known = {(row.root, row.uri) for row in after.rows()}
        # What is NEW has changed since it was written, and the run that was to write it again has not ended.
        has = [row for row in before.rows() if row.state in ("WRITTEN", "NEW")]
        left = [row for row in has if (row.root, row.uri) not in known]
    return sorted(path for path in (Path(row.root, row.uri) for row in left) if path.exists())
