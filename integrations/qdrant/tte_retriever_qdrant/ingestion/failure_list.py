"""The list of what could not be indexed, for people and their scripts: JSON Lines in the store's state directory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tte_retriever.atomic import atomic_write_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from tte_retriever_qdrant.ingestion.events import Failure
    from tte_retriever_qdrant.ingestion.state import FileRecord

QUARANTINE = "quarantine.jsonl"
"""Its name."""


def write_failures(state_dir: Path, root: str, records: Iterable[FileRecord], failures: Sequence[Failure]) -> None:
    """Replace the list by the failures that are known now.

    Args:
        state_dir: Of the store.
        root: The source of this run, absolute.
        records: The whole ledger; failures of other sources and earlier runs are listed too.
        failures: Those of this run, with the chunks that failed.
    """
    lines = [{"root": root, "uri": each.uri, "reason": each.reason, "message": each.message} for each in failures]
    listed = {(root, each.uri, each.message) for each in failures}
    listed |= {(root, each.uri.rpartition("#")[0], each.message) for each in failures}
    for record in records:
        is_failure = record.state in ("WRITTEN", "FAILED") and record.reason
        if is_failure and (record.root, record.uri, record.message) not in listed:
            lines.append({key: getattr(record, key) for key in ("root", "uri", "reason", "message")})
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    atomic_write_text(state_dir / QUARANTINE, text)
