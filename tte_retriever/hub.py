"""Find a model by its name, and refuse at once what is not an embedding model."""

from __future__ import annotations

import json
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

from tte_retriever.backbones import BACKBONES
from tte_retriever.backbones.custom_code import refuse_custom_code
from tte_retriever.checkpoint import bundled_models, resolve_model
from tte_retriever.errors import CheckpointError, InputError, TTEError

if TYPE_CHECKING:
    from collections.abc import Iterator

_TIMEOUT_S = 5.0
_MODULES = "modules.json"
"""The file that says how a checkpoint embeds. Without it, stock sentence-transformers falls back to mean pooling."""


def find_model(
    name: str,
    *,
    revision: str | None = None,
    token: bool | str | None = None,
    cache_folder: str | None = None,
    local_files_only: bool = False,
) -> tuple[str, bool]:
    """Find an embedding model, in seconds also where the hub cannot be reached.

    Args:
        name: A bundled name, a folder or a hub id.
        revision: As for ``SentenceTransformer``.
        token: As for ``SentenceTransformer``.
        cache_folder: As for ``SentenceTransformer``.
        local_files_only: As for ``SentenceTransformer``.

    Returns:
        The folder or hub id, and whether it has to be loaded from local files alone.

    Raises:
        InputError: If there is no such model, or it is not cached and the hub cannot be reached.
        CheckpointError: If it is not an embedding model, or has to be imported first.
    """
    found = resolve_model(name)
    if Path(found).exists():
        if revision is not None:
            raise InputError(
                f"revision is {revision!r}, but {name!r} is on this machine; only models on the hub have revisions."
            )
        refuse_custom_code(name, _config(Path(found)).get("auto_map"))
        if not (Path(found) / _MODULES).is_file():
            raise _no_embedding_model(name, _config(Path(found)).get("model_type"))
        return found, local_files_only
    cached = local_folder(name, revision, cache_folder)
    is_cached = cached is not None
    if cached is not None:
        refuse_custom_code(name, _config(cached).get("auto_map"))
    if local_files_only and not is_cached:
        raise _not_found(name, "it is neither bundled nor a folder nor cached, and local_files_only is true")
    if local_files_only:
        return name, True
    try:
        info = HfApi(token=token).model_info(name, revision=revision, timeout=_TIMEOUT_S)
    except (RepositoryNotFoundError, RevisionNotFoundError, ValueError) as error:
        raise _not_found(
            name, f"it is neither bundled nor a folder, and the hub has no such model ({_first_line(error)})"
        ) from error
    except Exception as error:  # whatever the HTTP library of the hub client's release raises
        if is_cached:
            return name, True
        raise _not_found(
            name,
            f"it is neither bundled nor a folder nor cached, and the hub cannot be reached ({_first_line(error)})",
        ) from error
    files = [file.rfilename for file in info.siblings or ()]
    refuse_custom_code(name, files)
    if _MODULES not in files:
        raise _no_embedding_model(name, (info.config or {}).get("model_type"))
    return name, False


def local_folder(name: str, revision: str | None = None, cache_folder: str | None = None) -> Path | None:
    """The folder of a model on this machine; ``None`` if there is none."""
    if Path(name).exists():
        return Path(name)
    try:
        cached = try_to_load_from_cache(name, _MODULES, cache_dir=cache_folder, revision=revision)
    except HFValidationError:  # a path, or another name that no model on the hub can have
        return None
    return Path(cached).parent if isinstance(cached, str) else None


@contextmanager
def one_sentence_errors(name: str | None) -> Iterator[None]:
    """Turn what libraries raise while they load a model into an ``InputError`` of one sentence; ``None`` has no name."""
    try:
        yield
    except TTEError:
        raise
    except (ImportError, OSError, RuntimeError, ValueError) as error:  # such as a device that is not there
        if name is None:
            raise
        raise InputError(f"The model {name!r} cannot be loaded: {' '.join(str(error).split())}") from error


def _not_found(name: str, reason: str) -> InputError:
    models = bundled_models()
    nearest = get_close_matches(name, models, n=1)
    bundled = f"did you mean {nearest[0]!r}?" if nearest else f"the bundled ones are {', '.join(models)}."
    return InputError(f"The model {name!r} cannot be loaded: {reason}; {bundled}")


def _no_embedding_model(name: str, model_type: str | None) -> TTEError:
    if model_type is None:
        return _not_found(name, f"the folder has neither {_MODULES} nor a model type in config.json")
    if model_type not in {spec.model_type for spec in BACKBONES}:
        return CheckpointError(
            f"{name!r} is a {model_type} checkpoint, and TTEEncoder takes Qwen-VL and Qwen3.5 checkpoints; load it with "
            "SentenceTransformer."
        )
    return CheckpointError(
        f"{name!r} is not an embedding model: it has no {_MODULES}, which says how it embeds. Build one from it: "
        f"tte-retriever build OUT --backbone {name} --method tte-flash."
    )


def _config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
