"""What an ingestion tells while it runs and when it ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

EventKind: TypeAlias = Literal["planned", "written", "skipped", "failed", "removed"]


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Attributes:
        kind: ``planned`` once, when it is known what there is to do; ``written``, ``skipped`` (a duplicate, or
            not a kind of file that is indexed) or ``failed`` as files are dealt with; ``removed`` for a file that is gone from the folder.
        done: Files dealt with so far, of ``total``.
        total: Files to decode in this run.
        uri: The file, by its path under the source; empty for ``planned``.
        points: Points that it has.
        reason: Why it was skipped or failed; ``duplicate`` or a word of ``MediaReason``.
        message: The same for people.
    """

    kind: EventKind
    done: int
    total: int
    uri: str = ""
    points: int = 0
    reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class Failure:
    """A file, or a part of one, that could not be indexed.

    Attributes:
        uri: Path under the source, with the part after ``#`` where only that part failed (``a.pdf#page=3``).
        reason: A word of ``MediaReason``.
        message: What is wrong, for people.
    """

    uri: str
    reason: str
    message: str


@dataclass(frozen=True)
class NearDuplicate:
    """Two points of different contents whose vectors are almost the same.

    Attributes:
        uri: The file of the one that was written in this run.
        of: The file of the other.
        score: Cosine similarity of their vectors.
    """

    uri: str
    of: str
    score: float


@dataclass(frozen=True)
class Report:
    """The outcome of an ingestion.

    Attributes:
        files: Files found.
        indexed: Files written in this run.
        points: Points of those files.
        unchanged: Files that an earlier run had written and that are still the same, and lack the same parts if any.
        duplicates: Files whose content is that of another file, under whose name it is found.
        skipped: Files of a kind that is not indexed.
        removed: Files that earlier runs had seen and that are gone.
        failed: Files, and parts of files, that could not be indexed.
        near_duplicates: What was written in this run and is almost the same as something else in the store.
        absent: Folders, absolute, that earlier runs have indexed and that are not there now; what the store holds of
            them is found as before.
    """

    files: int
    indexed: int
    points: int
    unchanged: int
    duplicates: int
    skipped: int
    removed: int
    failed: tuple[Failure, ...]
    near_duplicates: tuple[NearDuplicate, ...] = ()
    absent: tuple[str, ...] = ()
