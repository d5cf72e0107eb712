"""The file that says what an edge store holds and where in its directory the vectors are."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tte_retriever_qdrant.errors import StoreError
from tte_retriever_qdrant.records import CollectionSpec

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = "tte-store.json"
"""Its name; a directory with such a file is a store."""

_FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """What an edge store is.

    Attributes:
        spec: What the collection holds.
        shard: Directory of the engine's files, relative to the store's.
    """

    spec: CollectionSpec
    shard: str


def read_manifest(home: Path) -> Manifest | None:
    """Read the manifest of the store in ``home``; ``None`` if there is none.

    Raises:
        StoreError: It cannot be read, is broken, or was written by a newer version.
    """
    path = home / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            message = f"{path} has the format {content['format']!r}; this version reads {_FORMAT}: use a newer version"
            raise StoreError(message)
        return Manifest(CollectionSpec(**content["collection"]), content["shard"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is broken ({error}); restore it, or index into a new directory") from error


def write_manifest(home: Path, manifest: Manifest) -> None:
    """Write the manifest so that a reader sees the old one or the new one, whatever happens in between."""
    content = {"format": _FORMAT, "collection": asdict(manifest.spec), "shard": manifest.shard}
    draft = home / f"{MANIFEST}.new"
    with draft.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(home / MANIFEST)
