"""Whether a re-embedding has all files that the generation before it has."""

from __future__ import annotations

from pathlib import Path

from tte_retriever_qdrant.ingestion.ledger import LEDGER, Ledger


def missing_sources(old: Path, new: Path) -> list[Path]:
    """The files that one generation has and that were never indexed into another, by this machine's ledgers.

    Args:
        old: State directory of the generation that is searched.
        new: State directory of the generation that is to take its place.

    Returns:
        Those of them that still exist, in the order of their names.
    """
    if not (old / LEDGER).is_file():
        return []
    with Ledger(old / LEDGER) as before, Ledger(new / LEDGER) as after:
        known = {(record.root, record.uri) for record in after.records()}
        # What is NEW was written once and has changed since; the run that writes it again has not ended.
        stored = [record for record in before.records() if record.state in ("WRITTEN", "NEW")]
    paths = [Path(record.root, record.uri) for record in stored if (record.root, record.uri) not in known]
    return sorted(path for path in paths if path.exists())
