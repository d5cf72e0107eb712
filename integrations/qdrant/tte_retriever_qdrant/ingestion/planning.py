"""Compare a source with the ledger: what is new, what is done, what is gone."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tte_retriever.errors import MediaError
from tte_retriever.sources.discovery import uri_of
from tte_retriever.sources.identity import asset_id_of, stamp
from tte_retriever_qdrant.ingestion.events import Failure
from tte_retriever_qdrant.ingestion.ledger import DUPLICATE, Row

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from tte_retriever.media import MediaLimits
    from tte_retriever.sources.chunking import ChunkingConfig
    from tte_retriever_qdrant.ingestion.ledger import Ledger

_UNKNOWN_CONTENT = ("missing", "not-a-file", "unreadable")  # such a file may still be what it was


@dataclass(frozen=True)
class Task:
    """A file to decode.

    Attributes:
        path: Where it is.
        row: What the ledger says of it now.
        is_recut: Whether the store may hold windows of it that were cut otherwise.
        is_resumed: Whether an earlier run may have written some of the same points.
        missing: Names of the parts that there are to do, if an earlier run has written all others.
    """

    path: Path
    row: Row
    is_recut: bool = False
    is_resumed: bool = False
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What there is to do.

    Attributes:
        tasks: Files to decode, embed and write.
        unchanged: How many files are done already.
        duplicates: How many have the content of another file.
        skipped: How many are of a kind that is not indexed, as an earlier run found.
        removed: URIs of the files that are gone.
        failed: Files whose bytes could not be read.
        absent: Folders that are not there, and of which the store holds points.
    """

    tasks: tuple[Task, ...]
    unchanged: int
    duplicates: int
    skipped: int
    removed: tuple[str, ...]
    failed: tuple[Failure, ...]
    absent: tuple[str, ...]


@dataclass(frozen=True)
class _Seen:
    path: Path
    row: Row  # as it is on the disk
    before: Row | None  # as the ledger has it, if that is of the same content

    @property
    def is_written(self) -> bool:
        return self.before is not None and self.before.state == "WRITTEN"

    def stands(self, cut: ChunkingConfig) -> bool:
        """Whether it is in the store as this run would cut it, but perhaps for parts that could not be indexed."""
        return self.before is not None and self.is_written and self.before.cut in ("", str(cut))

    def is_done(self, cut: ChunkingConfig) -> bool:
        """Whether an earlier run has dealt with it for good; whether a duplicate still is one is judged each time."""
        if self.before is None or not (self.stands(cut) or self.before.state == "SKIPPED"):
            return False
        return not self.before.reason if self.is_written else self.before.reason != DUPLICATE


def make_plan(
    root: Path,
    paths: Sequence[Path],
    ledger: Ledger,
    limits: MediaLimits,
    *,
    cut: ChunkingConfig,
    complete: bool,
    unknown: Collection[str],
) -> Plan:
    """Decide what to do with each file, and record it in the ledger.

    Args:
        root: The folder that URIs are relative to.
        paths: The files that were found.
        ledger: What is known of them; files to be decoded are NEW in it afterwards.
        limits: What may be opened.
        cut: Into which windows videos are cut; those cut otherwise are done again.
        complete: Whether ``paths`` are all files of ``root``, so that others are gone.
        unknown: URIs of files and folders that could not be reached; nothing is known to be gone from there.
    """
    known = ledger.rows()
    here = {row.uri: row for row in known if row.root == str(root)}
    seen: list[_Seen] = []
    failed: list[tuple[Failure, Row | None]] = []
    for path in paths:
        uri = uri_of(path, root)
        try:
            seen.append(_look_at(path, str(root), uri, here.get(uri), limits))
        except MediaError as error:
            row = None
            if error.reason not in _UNKNOWN_CONTENT:
                row = Row(str(root), uri, 0, 0, "", "FAILED", reason=error.reason, message=str(error))
            failed.append((Failure(uri, error.reason, str(error)), row))
    present = {uri_of(path, root) for path in paths} | set(unknown)
    behind = tuple(f"{uri}/" for uri in unknown)
    removed = tuple(sorted(uri for uri in here if complete and uri not in present and not uri.startswith(behind)))

    # Path.exists would raise for a folder in one that must not be entered.
    absent = {each for each in {row.root for row in known} if not os.path.exists(each)}  # noqa: PTH110
    if moved := [row for row in known if row.root in absent]:
        seen = _take_over(moved, seen, ledger)
        known = ledger.rows()
    judged = {(str(root), file.row.uri) for file in seen} | {(str(root), uri) for uri in removed}
    owned = {row.asset_id for row in known if row.state == "WRITTEN" and (row.root, row.uri) not in judged}
    cuts: defaultdict[str, set[str]] = defaultdict(set)
    for row in known:
        cuts[row.asset_id].update(row.cut.split())
    tasks, rows, counts = _judge(seen, owned, cuts, cut)
    rows += [row for _, row in failed if row is not None]
    ledger.record(rows, removed=[(str(root), uri) for uri in removed])
    return Plan(
        tasks=tuple(tasks),
        unchanged=counts["unchanged"],
        duplicates=counts["duplicates"],
        skipped=counts["skipped"],
        removed=removed,
        failed=tuple(failure for failure, _ in failed),
        absent=tuple(sorted({row.root for row in known if row.root in absent and row.state == "WRITTEN"})),
    )


def _take_over(moved: list[Row], seen: list[_Seen], ledger: Ledger) -> list[_Seen]:
    """Have the ledger say of files what it said of them before their folder was moved.

    Only of the same content under the same name, of which it is true wherever that lies. Whatever else was in a folder
    that is not there may be on a disk that is not mounted.

    Args:
        moved: The rows of folders that are not there.
        seen: The files of this run.
        ledger: Takes the rows.

    Returns:
        The files, with what the ledger says of them now.
    """
    here = {(file.row.asset_id, file.row.uri): file for file in seen}
    found = [row for row in moved if (row.asset_id, row.uri) in here]
    taken = {}
    for row in sorted(found, key=lambda row: row.state == "WRITTEN"):  # which counts more than any other
        file = here[row.asset_id, row.uri]
        if file.before is None or row.state == "WRITTEN":
            taken[row.uri] = replace(row, root=file.row.root)
    ledger.record(taken.values(), removed=[(row.root, row.uri) for row in found])
    return [replace(file, before=taken.get(file.row.uri, file.before)) for file in seen]


def _judge(
    seen: list[_Seen], owned: set[str], cuts: Mapping[str, set[str]], cut: ChunkingConfig
) -> tuple[list[Task], list[Row], Counter[str]]:
    """Sort files into tasks and what needs none.

    Args:
        seen: The files.
        owned: The assets that are stored under other files' names.
        cuts: How each asset was ever cut, as far as the store may know of it.
        cut: How it is cut in this run.
    """
    done = {file.row.uri for file in seen if file.is_done(cut)}
    owned = owned | {file.row.asset_id for file in seen if file.stands(cut)}
    counts: Counter[str] = Counter()
    tasks: list[Task] = []
    rows: list[Row] = []
    for file in seen:
        if file.before is not None and file.row.uri in done:
            row = replace(file.before, size=file.row.size, mtime_ns=file.row.mtime_ns)
            counts["unchanged" if file.is_written else "skipped"] += 1
        elif file.row.asset_id in owned and not file.stands(cut):
            row = replace(file.row, state="SKIPPED", reason=DUPLICATE)
            counts["duplicates"] += 1
        else:
            others = cuts.get(file.row.asset_id, set()) - {str(cut)}
            row = replace(file.row, cut=" ".join(sorted({*others, str(cut)})))
            before = file.before if not others else None
            missing = tuple(before.missing.split()) if before is not None and file.stands(cut) else ()
            resumed = before is not None and before.state in ("NEW", "WRITTEN") and not missing
            tasks.append(Task(file.path, row, is_recut=bool(others), is_resumed=resumed, missing=missing))
        if row != file.before:
            rows.append(row)
    return tasks, rows, counts


def _look_at(path: Path, root: str, uri: str, before: Row | None, limits: MediaLimits) -> _Seen:
    size, mtime_ns = stamp(path)
    same_stamp = before is not None and (before.size, before.mtime_ns) == (size, mtime_ns)
    asset_id = before.asset_id if before is not None and same_stamp and before.asset_id else asset_id_of(path, limits)
    row = Row(root, uri, size, mtime_ns, asset_id, "NEW")
    return _Seen(path, row, before if before is not None and before.asset_id == asset_id else None)
