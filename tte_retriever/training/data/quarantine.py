"""Rows that cannot be used, written down with the reason, so that they can be mended."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@dataclass(frozen=True)
class RejectedRow:
    """One unusable row.

    Attributes:
        file: Where it stands.
        line: Its line, counted from 1; in Parquet its row.
        reason: What is wrong with it.
    """

    file: str
    line: int
    reason: str


def quarantine_rows(path: Path, rows: Iterable[RejectedRow]) -> None:
    """Append rows to a JSONL file, those already in it left out: several readers, ranks and runs may share one."""
    known = set(path.read_text(encoding="utf-8").splitlines()) if path.exists() else set()
    lines = dict.fromkeys(json.dumps(asdict(row)) for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in lines if line not in known))
