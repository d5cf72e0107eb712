"""Convert public checkpoints of other projects to folders that ``TTEEncoder`` loads."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from tte_retriever.checkpoint import check_output_dir, public_name, save_model
from tte_retriever.errors import InputError, check_choice
from tte_retriever.importing import plume, ume_r1, wemm

__all__ = ["ORIGINS", "import_checkpoint"]


ORIGINS = {"plume": plume, "ume-r1": ume_r1, "wemm": wemm}
"""Project that checkpoints come from → its module.

``Settings`` is a frozen dataclass of the settings that are not in its files, ``load`` reads a folder of the project with such
settings, and ``CARD`` is the ``README.md`` of the new folder, in which ``{name}`` is the checkpoint.
"""


def import_checkpoint(src: str | Path, out: str | Path, *, origin: str, **settings: Any) -> Path:
    """Convert a public checkpoint to a folder that ``TTEEncoder`` loads.

    The folder appears when it is complete, so an import that fails leaves nothing behind.

    Args:
        src: Folder or hub id of the original, such as ``"CUDAOUTOFMEMORY/PLUME-Qwen2-VL-2B"``.
        out: The new folder. It must not exist, or be empty.
        origin: Name of a project in :data:`ORIGINS`: ``plume``, ``ume-r1`` or ``wemm``.
        **settings: Fields of :class:`tte_retriever.importing.plume.Settings` or
            :class:`tte_retriever.importing.ume_r1.Settings`; ``wemm`` has none.

    Returns:
        ``out``.

    Raises:
        InputError: An argument that cannot be used, or a checkpoint that cannot be loaded.
        CheckpointError: A checkpoint that is incomplete or of another project.

    Example:
        >>> import_checkpoint("CUDAOUTOFMEMORY/PLUME-Qwen2-VL-2B", "plume-2b", origin="plume", mode="gen")
        Traceback (most recent call last):
        ...
        tte_retriever.errors.InputError: plume has no setting mode; it has steps, active_experts, context, ...
    """
    out = Path(out)
    check_choice("origin", origin, ORIGINS)
    known = [field.name for field in fields(ORIGINS[origin].Settings)]
    if unknown := [name for name in settings if name not in known]:
        raise InputError(f"{origin} has no setting {', '.join(unknown)}; it has {', '.join(known) or 'none'}.")
    check_output_dir(out)
    model = ORIGINS[origin].load(_folder(str(src)), ORIGINS[origin].Settings(**settings))
    return save_model(model, out, ORIGINS[origin].CARD.format(name=public_name(src)))


def _folder(src: str) -> Path:
    if Path(src).is_dir():
        return Path(src)
    try:
        return Path(snapshot_download(src))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise InputError(
            f"The checkpoint {src!r} is not a folder and cannot be downloaded from the hub "
            f"({(str(error).splitlines() or [type(error).__name__])[0]}); give the folder of the original, or its hub id."
        ) from error
