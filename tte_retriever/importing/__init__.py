"""Public checkpoints of other projects, turned into folders that ``TTEEncoder`` loads."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from tte_retriever.checkpoint import check_output_dir, public_name, save_model
from tte_retriever.errors import InputError
from tte_retriever.importing import plume, ume_r1

if TYPE_CHECKING:
    from collections.abc import Callable

    from sentence_transformers import SentenceTransformer

__all__ = ["ORIGINS", "import_checkpoint"]


@dataclass(frozen=True)
class _Origin:
    """Where a checkpoint is from.

    Attributes:
        settings: A frozen dataclass of what its files do not say.
        load: Reads its folder.
        card: What the new folder's ``README.md`` says, with ``{name}`` for the checkpoint.
    """

    settings: type
    load: Callable[[Path, Any], SentenceTransformer]
    card: str


ORIGINS = {
    "plume": _Origin(plume.Settings, plume.load, plume.CARD),
    "ume-r1": _Origin(ume_r1.Settings, ume_r1.load, ume_r1.CARD),
}
"""By name."""


def import_checkpoint(src: str | Path, out: str | Path, *, origin: str, **settings: Any) -> Path:
    """Turn a public checkpoint into a folder that ``TTEEncoder`` loads.

    The folder appears when it is complete: an import that fails leaves none.

    Args:
        src: Folder or hub id of the original.
        out: The new folder; it must not exist, or be empty.
        origin: One of :data:`ORIGINS`.
        **settings: Fields of its settings, such as :class:`tte_retriever.importing.plume.Settings`.

    Returns:
        ``out``.

    Raises:
        InputError: An unusable argument, or a checkpoint that cannot be had.
        CheckpointError: A checkpoint that is incomplete or another.
    """
    out = Path(out)
    if origin not in ORIGINS:
        raise InputError(f"The origin is {origin!r}; it can be {' or '.join(ORIGINS)}.")
    known = [field.name for field in fields(ORIGINS[origin].settings)]
    if unknown := [name for name in settings if name not in known]:
        raise InputError(f"{origin} has no setting {', '.join(unknown)}; it has {', '.join(known)}.")
    check_output_dir(out)
    model = ORIGINS[origin].load(_folder(str(src)), ORIGINS[origin].settings(**settings))
    return save_model(model, out, ORIGINS[origin].card.format(name=public_name(src)))


def _folder(src: str) -> Path:
    if Path(src).is_dir():
        return Path(src)
    try:
        return Path(snapshot_download(src))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise InputError(
            f"The checkpoint {src!r} is neither a folder nor to be had from the hub "
            f"({(str(error).splitlines() or [type(error).__name__])[0]}); give the folder of the original, or its id."
        ) from error
