"""Compare a source with the ledger: which files are new, done, or gone."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tte_retriever.errors import MediaError
from tte_retriever.sources import asset_id_of, root_of, stamp, uri_of
from tte_retriever_qdrant.ingestion.events import Failure
from tte_retriever_qdrant.ingestion.state import DUPLICATE, FileRecord, FileState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tte_retriever.media import MediaLimits
    from tte_retriever.sources import ChunkingConfig
    from tte_retriever_qdrant.ingestion.ledger import Ledger

_UNKNOWN_CONTENT = ("missing", "not-a-file", "unreadable")  # such a file may still be what it was


@dataclass(frozen=True)
class Plan:
    """What a run has to do.

    Attributes:
        root: The folder that URIs are relative to.
        files: Files to decode, embed and write.
        counts: How many files are ``unchanged`` (an earlier run has written them), ``duplicates`` (they have the content
            of another file) or ``skipped`` (their kind is not indexed, as an earlier run found).
        removed: URIs of the files that are gone.
        failed: Paths that could not be reached, and files that could not be read.
        absent: Folders that are not there, and of which the store holds points.
    """

    root: Path
    files: tuple[FileState, ...]
    counts: Counter[str]
    removed: tuple[str, ...]
    failed: tuple[Failure, ...]
    absent: tuple[str, ...]


def make_plan(
    source: Path,
    paths: Sequence[Path],
    unreached: Sequence[OSError],
    ledger: Ledger,
    limits: MediaLimits,
    chunking: ChunkingConfig,
) -> Plan:
    """Decide what to do with each file, and record it in the ledger.

    Args:
        source: The folder, of which ``paths`` are all files, or the one file.
        paths: The files that were found.
        unreached: Errors of files and folders that could not be reached; files in them count as present.
        ledger: What earlier runs did; files to be decoded are NEW in it afterwards.
        limits: What may be opened.
        chunking: Into which windows videos are cut; those cut in another way are done again.
    """
    root, known = root_of(source), ledger.records()
    here = {record.uri: record for record in known if record.root == str(root)}
    files, broken = _look_at_all(root, paths, here, limits)
    unknown = [_unreached(error, root) for error in unreached]
    removed: tuple[str, ...] = ()
    if source.is_dir():
        behind = tuple(f"{failure.uri}/" for failure in unknown)
        present = {uri_of(path, root) for path in paths} | {failure.uri for failure in unknown}
        removed = tuple(sorted(uri for uri in here if uri not in present and not uri.startswith(behind)))

    # Path.exists would raise for a folder in one that must not be entered.
    absent = {each for each in {record.root for record in known} if not os.path.exists(each)}  # noqa: PTH110
    if moved := [record for record in known if record.root in absent]:
        _take_over(moved, files, ledger)
        known = ledger.records()
    settled = {(str(root), uri) for uri in (*removed, *(file.uri for file in files))}
    elsewhere = {each.asset_id for each in known if each.state == "WRITTEN" and (each.root, each.uri) not in settled}
    counts = _sort(files, elsewhere, _chunkings(known), chunking)
    changed = [file.record for file in files if file.record != file.before]
    changed += [record for _, record in broken if record is not None]
    ledger.write(changed, removed=[(str(root), uri) for uri in removed])
    return Plan(
        root=root,
        files=tuple(file for file in files if file.record.state == "NEW"),
        counts=counts,
        removed=removed,
        failed=(*unknown, *(failure for failure, _ in broken)),
        absent=tuple(sorted({each.root for each in known if each.root in absent and each.state == "WRITTEN"})),
    )


def _look_at_all(
    root: Path, paths: Sequence[Path], here: Mapping[str, FileRecord], limits: MediaLimits
) -> tuple[list[FileState], list[tuple[Failure, FileRecord | None]]]:
    """Find out the content of files; of those that cannot be read, why, and a record if the content must be broken."""
    files: list[FileState] = []
    broken: list[tuple[Failure, FileRecord | None]] = []
    for path in paths:
        uri = uri_of(path, root)
        try:
            files.append(_look_at(path, str(root), uri, here.get(uri), limits))
        except MediaError as error:
            record = None
            if error.reason not in _UNKNOWN_CONTENT:
                record = FileRecord(str(root), uri, 0, 0, "", "FAILED", reason=error.reason, message=str(error))
            broken.append((Failure(uri, error.reason, str(error)), record))
    return files, broken


def _look_at(path: Path, root: str, uri: str, before: FileRecord | None, limits: MediaLimits) -> FileState:
    size, mtime_ns = stamp(path)
    same_stamp = before is not None and (before.size, before.mtime_ns) == (size, mtime_ns)
    asset_id = before.asset_id if before is not None and same_stamp and before.asset_id else asset_id_of(path, limits)
    record = FileRecord(root, uri, size, mtime_ns, asset_id, "NEW")
    return FileState(path, record, before if before is not None and before.asset_id == asset_id else None)


def _unreached(error: OSError, root: Path) -> Failure:
    uri = uri_of(Path(error.filename), root)
    message = f"{uri!r} cannot be reached: {error.strerror}; check its permissions and those of its folder"
    return Failure(uri, "unreadable", message)


def _take_over(moved: Sequence[FileRecord], files: Sequence[FileState], ledger: Ledger) -> None:
    """Move the records of a folder that was moved itself.

    Only of the same content under the same name, of which they are true wherever it lies. Whatever else was in a folder
    that is not there may be on a disk that is not mounted.

    Args:
        moved: The records of folders that are not there.
        files: The files of this run; ``before`` is set to the records that are moved to them.
        ledger: Takes the records.
    """
    here = {(file.asset_id, file.uri): file for file in files}
    found = [record for record in moved if (record.asset_id, record.uri) in here]
    taken = {}
    for record in sorted(found, key=lambda record: record.state == "WRITTEN"):  # the last one counts
        file = here[record.asset_id, record.uri]
        if file.before is None or record.state == "WRITTEN":
            file.before = taken[record.uri] = replace(record, root=file.record.root)
    ledger.write(taken.values(), removed=[(record.root, record.uri) for record in found])


def _chunkings(known: Sequence[FileRecord]) -> Mapping[str, set[str]]:
    """How each asset was ever cut into windows, as far as the store may hold them."""
    chunkings: defaultdict[str, set[str]] = defaultdict(set)
    for record in known:
        chunkings[record.asset_id].update(record.chunkings)
    return chunkings


def _sort(
    files: Sequence[FileState], elsewhere: set[str], chunkings: Mapping[str, set[str]], chunking: ChunkingConfig
) -> Counter[str]:
    """Decide the state of each file, and count those that are not NEW.

    Args:
        files: The files.
        elsewhere: The assets that are stored under other files' names.
        chunkings: How each asset was ever cut.
        chunking: How it is cut in this run.
    """
    stored = elsewhere | {file.asset_id for file in files if _is_stored(file, chunking)}
    counts: Counter[str] = Counter()
    for file in files:
        if file.before is not None and _is_done(file, chunking):
            counts["unchanged" if file.before.state == "WRITTEN" else "skipped"] += 1
            file.record = replace(file.before, size=file.record.size, mtime_ns=file.record.mtime_ns)
        elif file.asset_id in stored and not _is_stored(file, chunking):
            counts["duplicates"] += 1
            file.record = replace(file.record, state="SKIPPED", reason=DUPLICATE)
        else:
            _renew(file, chunkings.get(file.asset_id, set()) - {str(chunking)}, chunking)
    return counts


def _renew(file: FileState, others: set[str], chunking: ChunkingConfig) -> None:
    """Prepare a file that is to be decoded.

    Args:
        file: Its record is NEW.
        others: The other ways in which its content was ever cut.
        chunking: How it is cut in this run.
    """
    file.record = replace(file.record, chunkings=tuple(sorted({*others, str(chunking)})))
    file.is_rechunked = bool(others)
    if file.before is not None and not others:
        file.retried = file.before.missing if _is_stored(file, chunking) else ()
        file.is_resumed = file.before.state in ("NEW", "WRITTEN") and not file.retried


def _is_stored(file: FileState, chunking: ChunkingConfig) -> bool:
    """Whether the store has the file as this run would cut it, perhaps without chunks that could not be indexed."""
    before = file.before
    return before is not None and before.state == "WRITTEN" and before.chunkings in ((), (str(chunking),))


def _is_done(file: FileState, chunking: ChunkingConfig) -> bool:
    """Whether an earlier run has settled the file for good; a duplicate is judged anew each time."""
    if _is_stored(file, chunking):
        return file.before is not None and not file.before.reason
    return file.before is not None and file.before.state == "SKIPPED" and file.before.reason != DUPLICATE
