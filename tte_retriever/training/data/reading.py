"""Files of training pairs become a map-style dataset; unusable rows are left out and reported."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict

from tte_retriever.errors import InputError

from .formats import FORMATS, TEXTS, TrainingPair
from .item_codec import encode_item
from .quarantine import RejectedRow, quarantine_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

_ARROW_ROWS = 10_000  # held as Python objects before they become one Arrow table


def read_pairs(
    path: str | Path,
    *,
    format: str,
    media_root: str | Path,
    quarantine: str | Path | None = None,
    negatives: int | None = None,
    max_failures: int | None = None,
    max_rationale_chars: int = 16_000,
) -> Dataset:
    """Read training pairs.

    Args:
        path: A ``.jsonl`` or ``.parquet`` file.
        format: ``pairs``, ``mmeb`` or ``ume``; see :data:`~tte_retriever.training.data.FORMATS`.
        media_root: The folder that media paths are relative to.
        quarantine: A JSONL file to which unusable rows are appended, as file, line and reason.
        negatives: Negatives per row: a row with fewer is unusable, of more the first are taken. ``None`` is as many as
            the first usable row has.
        max_failures: Most unusable rows that are accepted; ``None`` is any number short of all.
        max_rationale_chars: Longest rationale, in characters.

    Returns:
        A dataset in memory, one row per usable row of the file and in its order, with the columns ``anchor``,
        ``positive``, ``negative_1``… (encoded items, see :mod:`~tte_retriever.training.data.item_codec`), ``anchor_rationale``,
        ``positive_rationale``, ``anchor_answer``, ``positive_answer`` and ``<item>_id`` (``""`` for none), ``answers`` (a list
        of str), ``source`` and ``origin`` (``file:line``). Only the collator opens media.

    Raises:
        InputError: There is no such file, folder or format, no usable row, or more unusable rows than allowed.

    Example:
        >>> import json, tempfile
        >>> from pathlib import Path
        >>> from tte_retriever.training.data import decode_item
        >>> path = Path(tempfile.mkdtemp(), "train.jsonl")
        >>> _ = path.write_text(json.dumps({"anchor": "a red circle", "positive": "circle"}))
        >>> dataset = read_pairs(path, format="pairs", media_root=path.parent)
        >>> decode_item(dataset[0]["positive"])
        'circle'
    """
    path, root = Path(path), Path(media_root)
    if format not in FORMATS:
        raise InputError(f"format is {format!r}; give one of {', '.join(FORMATS)}")
    if not root.is_dir():
        raise InputError(f"media_root {str(root)!r} is not a folder; give the one that media paths are relative to")
    tables: list[pa.Table] = []
    rows: list[dict[str, Any]] = []
    rejected: list[RejectedRow] = []
    for line, raw in _raw_rows(path):
        try:
            pair = FORMATS[format](_parsed(raw))
            negatives = len(pair.negatives) if negatives is None else negatives
            rows.append(_row(pair, root, negatives, max_rationale_chars) | {"origin": f"{path}:{line}"})
        except InputError as error:
            rejected.append(RejectedRow(str(path), line, str(error)))
            if max_failures is not None and len(rejected) > max_failures:
                break
        if len(rows) == _ARROW_ROWS:
            tables.append(_table(rows))
            rows = []
    if rows:
        tables.append(_table(rows))
    _report(path, rejected, usable=sum(map(len, tables)), quarantine=quarantine, max_failures=max_failures)
    return Dataset(pa.concat_tables(tables))


def split_by_source(dataset: Dataset) -> DatasetDict:
    """One dataset per ``source``, in order of first appearance, for trainers that draw each batch from one data set.

    Example:
        >>> from datasets import Dataset
        >>> split_by_source(Dataset.from_dict({"anchor": ["a", "b", "c"], "source": ["x", "y", "x"]})).num_rows
        {'x': 2, 'y': 1}
    """
    places: dict[str, list[int]] = {}
    for index, source in enumerate(dataset["source"]):
        places.setdefault(source or "unnamed", []).append(index)
    return DatasetDict({source: dataset.select(indices) for source, indices in places.items()})


def _raw_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Lines of JSONL as bytes, rows of Parquet as dicts, with their numbers from 1; blank lines are skipped."""
    if path.suffix not in (".jsonl", ".parquet"):
        raise InputError(f"{str(path)!r} is neither .jsonl (one JSON object per line) nor .parquet; convert it first")
    if not path.is_file():
        raise InputError(f"{str(path)!r} is not a file; check the path")
    if path.suffix == ".jsonl":
        with path.open("rb") as file:
            yield from ((number, line) for number, line in enumerate(file, 1) if line.strip())
        return
    try:
        batches = pq.ParquetFile(path).iter_batches(1000)
        yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{str(path)!r} is not a readable Parquet file: {error}; fetch it again") from error


def _parsed(raw: Any) -> dict[str, Any]:
    if isinstance(raw, bytes):
        try:
            raw = json.loads(raw)
        except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, nested without end
            raise InputError(f"not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise InputError(f"a JSON {type(raw).__name__} instead of an object; one row is one {{…}}")
    return raw


def _row(pair: TrainingPair, root: Path, negatives: int, max_rationale_chars: int) -> dict[str, Any]:
    if len(pair.negatives) < negatives:
        raise InputError(f"{len(pair.negatives)} negatives instead of {negatives}; give every row of a file as many")
    items = {"anchor": pair.anchor, "positive": pair.positive}
    items |= {f"negative_{i + 1}": item for i, item in enumerate(pair.negatives[:negatives])}
    row: dict[str, Any] = {column: {"json": _encoded(column, item, root)} for column, item in items.items()}
    row |= {name: _rationale(name, getattr(pair, name), max_rationale_chars) for name in TEXTS}
    row |= {f"{column}_id": _text("an id", pair.ids.get(column, "")) for column in items}
    answers = [_text("an answer", each) for each in pair.answers]
    return row | {"answers": answers, "source": _text("source", pair.source)}


def _encoded(column: str, item: Any, root: Path) -> str:
    try:
        return encode_item(item, root)
    except (InputError, RecursionError) as error:
        raise InputError(f"{column}: {error}") from error


def _rationale(column: str, text: Any, max_chars: int) -> str:
    if len(_text(column, text)) > max_chars:
        raise InputError(f"{column} has {len(text)} characters; at most {max_chars} are taken (max_rationale_chars)")
    return text.strip()


def _text(name: str, text: Any) -> str:
    if not isinstance(text, str):
        raise InputError(f"{name} is {text!r}; give a str")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{name} holds a lone surrogate at {error.start}, which is not a character") from error
    return text


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    text = pa.string()
    kinds: dict[type, pa.DataType] = {dict: pa.struct({"json": text}), list: pa.list_(text), str: text}
    return pa.Table.from_pylist(rows, pa.schema({name: kinds[type(value)] for name, value in rows[0].items()}))


def _report(
    path: Path, rejected: list[RejectedRow], *, usable: int, quarantine: str | Path | None, max_failures: int | None
) -> None:
    if quarantine is not None and rejected:
        quarantine_rows(Path(quarantine), rejected)
    where = f"see {str(quarantine)!r}" if quarantine is not None else "give quarantine=FILE to list them"
    first = f"the first is line {rejected[0].line}: {rejected[0].reason}" if rejected else "it has no rows"
    if max_failures is not None and len(rejected) > max_failures:
        raise InputError(f"{str(path)!r} has more than {max_failures} unusable rows (max_failures); {first}; {where}")
    if not usable:
        raise InputError(f"{str(path)!r} has no usable row ({len(rejected)} unusable); {first}; {where}")
    if rejected:
        logger.warning("%s: %d rows read, %d unusable; %s; %s", path, usable, len(rejected), first, where)
    else:
        logger.info("%s: %d rows read", path, usable)
