"""What an ingestion reports while it runs and when it ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

EventKind: TypeAlias = Literal["planned", "written", "skipped", "failed", "removed"]


@dataclass(frozen=True)
class Event:
    """Something that happened in a run.

    Attributes:
        kind: ``planned`` once, when it is known what there is to do; ``written``, ``skipped`` (a duplicate, or a kind of
            file that is not indexed) or ``failed`` as files become final; ``removed`` for a file that is gone.
        done: Files that are final, of ``total``.
        total: Files to decode in this run.
        uri: The file, by its path under the source; empty for ``planned``.
        points: Points that it has.
        reason: Why it was skipped or failed; ``duplicate`` or a word of ``MediaReason``.
        message: The same for people.

    Example:
        >>> Event("written", done=3, total=10, uri="a.pdf", points=2).kind
        'written'
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
    """A file, or a chunk of one, that could not be indexed.

    Attributes:
        uri: Path under the source, with the name of the chunk after ``#`` where only that failed (``a.pdf#page=3``).
        reason: A word of ``MediaReason``.
        message: What is wrong, for people.

    Example:
        >>> Failure("a.pdf#page=3", "corrupt", "page 3 cannot be drawn").uri.partition("#")[2]
        'page=3'
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

    Example:
        >>> NearDuplicate("copy.jpg", of="photo.png", score=0.993).of
        'photo.png'
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
        unchanged: Files that an earlier run wrote and that are still the same, with the same chunks missing, if any.
        duplicates: Files whose content is that of another file, under whose name it is found.
        skipped: Files of a kind that is not indexed.
        removed: Files that earlier runs indexed and that are gone.
        failed: Files, and chunks of files, that could not be indexed.
        near_duplicates: Points that were written in this run and are almost the same as another content in the store.
        absent: Folders, absolute, that earlier runs indexed and that do not exist now; their points are still searched.

    Example:
        >>> report = Report(3, indexed=2, points=4, unchanged=1, duplicates=0, skipped=0, removed=0, failed=())
        >>> report.indexed + report.unchanged
        3
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
