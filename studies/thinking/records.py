"""The results of the study: one JSONL file, with a line for each record.

Lines are sorted, so that a new run changes one line of the file. There are four types of records:

* ``tasks``: the tasks of mini-MMEB at one ``split, seed, queries``, and the kind of every query;
* ``run``: what one arm scored under one ``condition`` after training with one ``training_seed``;
* ``probe``: what ``probe.py`` measured on the checkpoint of such a run;
* ``cost``: what ``cost.py`` measured.

A condition is a setting that holds for all of its runs and differs from the config's, such as ``held-out`` or
``tries/2.0e-3``. It is empty for the main results. On disk, the metric of every query is packed (see :func:`pack`) and a
list of rows with the same keys is a list of lists whose first one has the keys.
"""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from filelock import FileLock

from tte_retriever.atomic import atomic_write_text

if TYPE_CHECKING:
    from collections.abc import Sequence

Record: TypeAlias = dict[str, Any]

IDENTITY: dict[str, tuple[str, ...]] = {
    "tasks": ("split", "seed", "queries"),
    "cost": ("condition",),
    "run": ("condition", "arm", "training_seed"),
    "probe": ("condition", "arm", "training_seed"),
}
"""Type of record → the keys that no two records of this type share."""

_PRECISION = 10_000
"""A packed value is a whole number of ten-thousandths."""


class ResultsFile:
    """Records in a file that several processes may change at the same time.

    Args:
        path: The file; it need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def read(self) -> list[Record]:
        """All records; none if there is no file."""
        if not self.path.exists():
            return []
        return [_unpacked(json.loads(line)) for line in self.path.read_text(encoding="utf-8").splitlines()]

    def find(self, record_type: str, **identity: Any) -> Record | None:
        """The record of this type and identity, or ``None``."""
        wanted = {"record": record_type, **identity}
        return next((record for record in self.read() if _identity(record) == _identity(wanted)), None)

    def put(self, *records: Record) -> None:
        """Add records, each in place of the one with the same identity, if there is one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(f".{self.path.name}.lock")):
            by_identity = {_identity(record): record for record in (*self.read(), *records)}
            lines = [json.dumps(_packed(by_identity[key]), ensure_ascii=False) for key in sorted(by_identity)]
            atomic_write_text(self.path, "".join(f"{line}\n" for line in lines))


def pack(values: np.ndarray) -> str:
    """Pack numbers from 0 to 6.5, rounded to four decimals: uint16 ten-thousandths, deflated, in base 64."""
    whole = np.round(np.asarray(values, np.float64) * _PRECISION).astype("<u2")
    return base64.b64encode(zlib.compress(whole.tobytes(), 9)).decode()


def unpack(text: str) -> np.ndarray:
    """The numbers that :func:`pack` packed; one axis, float64."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), "<u2") / _PRECISION


def _identity(record: Record) -> tuple[Any, ...]:
    record_type = record["record"]
    return list(IDENTITY).index(record_type), *(record[key] for key in IDENTITY[record_type])


def _packed(record: Record) -> Record:
    packed = {key: _table_of(value) if _is_rows(value) else value for key, value in record.items()}
    if "per_query" in record:
        packed["per_query"] = pack(np.array(list(record["per_query"].values())))
    if record["record"] == "tasks":
        packed["tasks"] = [task | {"kinds": _packed_kinds(task["kinds"])} for task in record["tasks"]]
    return packed


def _unpacked(record: Record) -> Record:
    plain = {key: _rows_of(value) if _is_table(value) else value for key, value in record.items()}
    if "per_query" in record:
        tasks = list(record["scores"])
        plain["per_query"] = dict(zip(tasks, unpack(record["per_query"]).reshape(len(tasks), -1), strict=True))
    if record["record"] == "tasks":
        plain["tasks"] = [task | {"kinds": _unpacked_kinds(**task["kinds"])} for task in record["tasks"]]
    return plain


def _packed_kinds(kinds: Sequence[str]) -> dict[str, Any]:
    names = list(dict.fromkeys(kinds))
    return {"names": names, "queries": pack(np.array([names.index(kind) for kind in kinds]) / _PRECISION)}


def _unpacked_kinds(names: list[str], queries: str) -> list[str]:
    return [names[round(index * _PRECISION)] for index in unpack(queries)]


def _is_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _is_table(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], list)


def _table_of(rows: list[dict[str, Any]]) -> list[list[Any]]:
    return [list(rows[0]), *(list(row.values()) for row in rows)]


def _rows_of(table: list[list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(table[0], values, strict=True)) for values in table[1:]]
