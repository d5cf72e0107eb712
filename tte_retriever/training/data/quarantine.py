"""Rows that cannot be used, recorded with the reason so that they can be repaired."""

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
        file: The file it is in.
        line: Its line, counted from 1; in Parquet its row.
        reason: What is wrong with it.

    Example:
        >>> RejectedRow("train.jsonl", 3, "'positive' is missing").line
        3
    """

    file: str
    line: int
    reason: str


def quarantine_rows(path: Path, rows: Iterable[RejectedRow]) -> None:
    """Append the rows that are not in it yet to a JSONL file; several readers, processes and runs may share one.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp(), "quarantine.jsonl")
        >>> quarantine_rows(path, [RejectedRow("train.jsonl", 3, "empty text")] * 2)
        >>> print(path.read_text(), end="")
        {"file": "train.jsonl", "line": 3, "reason": "empty text"}
    """
    known = set(path.read_text(encoding="utf-8").splitlines()) if path.exists() else set()
    lines = dict.fromkeys(json.dumps(asdict(row)) for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in lines if line not in known))
