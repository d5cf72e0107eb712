"""Public checkpoints with custom code, which is not run: they are imported."""

from __future__ import annotations

from tte_retriever.errors import CheckpointError

_IMPORTED = {"modeling_wemm_embedding": "wemm"}
"""Module of a checkpoint → what ``tte-retriever import --from`` calls its project."""


def refuse_custom_code(name: str, modules: object) -> None:
    """Refuse a checkpoint that has to be imported first.

    Args:
        name: Folder or hub id.
        modules: The ``auto_map`` of its config, or the names of its files.

    Raises:
        CheckpointError: It has to be imported.
    """
    for module, origin in _IMPORTED.items():
        if module in str(modules):
            raise CheckpointError(
                f"{name!r} embeds by custom code, which is not run. Import it, and use the new folder: "
                f"tte-retriever import {name} OUT --from {origin}."
            )
