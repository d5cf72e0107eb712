"""The list of what could not be indexed, for people and their scripts: one JSON object per line in the store's home."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from tte_retriever_qdrant.ingestion.events import Failure
    from tte_retriever_qdrant.ingestion.ledger import Row

QUARANTINE = "quarantine.jsonl"
"""Its name."""


def write_quarantine(home: Path, root: str, rows: Iterable[Row], failures: Sequence[Failure]) -> None:
    """Replace the list by what is known now.

    Args:
        home: Of the store.
        root: The source of this run, absolute.
        rows: The whole ledger; its failures of other sources and earlier runs are listed, too.
        failures: Those of this run, which also know the parts of files.
    """
    lines = [{"root": root, "uri": each.uri, "reason": each.reason, "message": each.message} for each in failures]
    told = {(each.uri, each.message) for each in failures} | {
        (each.uri.rpartition("#")[0], each.message) for each in failures
    }
    for row in rows:
        if (
            row.state in ("WRITTEN", "FAILED")
            and row.reason
            and not (row.root == root and (row.uri, row.message) in told)
        ):
            lines.append({"root": row.root, "uri": row.uri, "reason": row.reason, "message": row.message})
    draft = home / f"{QUARANTINE}.new"
    draft.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    draft.replace(home / QUARANTINE)
