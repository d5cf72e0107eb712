"""The manifest of an edge store: its generations, and where in the store's directory they are."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from tte_retriever.atomic import atomic_write_text
from tte_retriever.sources.discovery import STORE_MANIFEST
from tte_retriever_qdrant.errors import StoreError
from tte_retriever_qdrant.records import CollectionSpec

if TYPE_CHECKING:
    from pathlib import Path

_FORMAT = 2


@dataclass(frozen=True)
class Generation:
    """One collection of an edge store.

    Attributes:
        spec: What it holds.
        name: Its directory under ``generations/``.
        shard: Directory of the engine's files in that directory.
    """

    spec: CollectionSpec
    name: str
    shard: str


@dataclass(frozen=True)
class Manifest:
    """Which generations an edge store has.

    Attributes:
        current: The one that is searched.
        previous: The one before the last commit.
        next: The one that a re-embedding fills.
        update: A copy of the current one that is being updated.
    """

    current: Generation | None = None
    previous: Generation | None = None
    next: Generation | None = None
    update: Generation | None = None


def read_manifest(folder: Path) -> Manifest | None:
    """Read the manifest of the store in ``folder``; ``None`` if there is none.

    Raises:
        StoreError: It cannot be read, is broken, or has the format of another version.
    """
    path = folder / STORE_MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            message = f"{path} has the format {content['format']!r}, and this version reads {_FORMAT}"
            raise StoreError(f"{message}: use the newer version of the two, or index into a new directory")
        content.setdefault("update", None)  # stores made before there were updates
        return Manifest(**{field.name: _generation(content[field.name]) for field in fields(Manifest)})
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is broken ({error}); restore it, or index into a new directory") from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest atomically: a reader sees either the old one or the new one."""
    atomic_write_text(folder / STORE_MANIFEST, json.dumps({"format": _FORMAT, **asdict(manifest)}, indent=2))


def _generation(content: dict[str, Any] | None) -> Generation | None:
    if content is None:
        return None
    return Generation(CollectionSpec(**content["spec"]), content["name"], content["shard"])
