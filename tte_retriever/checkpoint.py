"""What is on disk: bundled models by name, new folders, and the fingerprint that tells two embedding spaces apart."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

from sentence_transformers.base.modules import Transformer

from tte_retriever.atomic import atomic_write
from tte_retriever.errors import InputError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Module

_MODELS = Path(__file__).parent / "models"

_PIXEL_SETTINGS = (
    *("size", "do_resize", "resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"),
    *("patch_size", "temporal_patch_size", "merge_size", "fps", "min_frames", "max_frames"),
)


def bundled_models() -> list[str]:
    """Names of the models that ship inside the package."""
    return sorted(folder.name for folder in _MODELS.iterdir() if (folder / "modules.json").is_file())


def model_path(name: str) -> str:
    """The folder of a bundled model, which plain ``SentenceTransformer`` loads too.

    Raises:
        InputError: If no bundled model has this name.
    """
    if name not in bundled_models():
        raise InputError(
            f"No bundled model is called {name!r}; there is {', '.join(bundled_models()) or 'none'}. "
            "Give a folder or a hub id to TTEEncoder directly."
        )
    return str(_MODELS / name)


def resolve_model(name_or_path: str) -> str:
    """A local folder as it is, a bundled name as its folder, anything else unchanged: a hub id."""
    if not Path(name_or_path).exists() and name_or_path in bundled_models():
        return model_path(name_or_path)
    return name_or_path


def check_output_dir(out: Path) -> None:
    """Raise unless a new folder can be written: it must not exist, or be empty and not the current one."""
    if out.resolve() == Path.cwd():
        raise InputError(f"{str(out)!r} is the current folder, which cannot be replaced; name a new folder in it.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{str(out)!r} exists and is not an empty folder; give another name or remove it first.")


def save_model(model: SentenceTransformer, folder: Path, card: str | None = None) -> Path:
    """Save a model so that ``folder`` holds all of it or does not exist, also after a power cut.

    Args:
        model: What is saved.
        folder: It must not exist, or be empty; see :func:`check_output_dir`.
        card: Its ``README.md``.

    Returns:
        ``folder``.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder) as draft:
        model.save_pretrained(str(draft), create_model_card=False)
        if card is not None:
            (draft / "README.md").write_text(card, encoding="utf-8")
    return folder


def public_name(source: str | Path) -> str:
    """A hub id as it is, a local folder by its last name: cards travel, and paths say where people live."""
    return Path(source).resolve().name if Path(source).exists() else str(source)


def settings(model: SentenceTransformer) -> str:
    """What decides on vectors beside the weights, as JSON: template, pixels, frames, modules, prompts, dimension, choices.

    Of the processors only what changes pixels or frames, for releases of transformers add keys that change nothing.
    """
    processor = model.processor
    pixels = [
        {key: vars(part).get(key) for key in _PIXEL_SETTINGS}
        for name in ("image_processor", "video_processor")
        if (part := getattr(processor, name, None)) is not None
    ]
    first = cast("Module", model[0]).get_config_dict()
    known = {
        "template": getattr(processor, "chat_template", None),
        "pixels": pixels,
        # Of a method that thinks by code of its own; what a stock first module is set to grows with its releases.
        "first": {key: value for key, value in first.items() if key not in Transformer.config_keys},
        "modules": [(type(module).__name__, cast("Module", module).get_config_dict()) for module in list(model)[1:]],
        "prompts": model.prompts,
        "dimension": model.truncate_dim or model.get_embedding_dimension(),
    }
    generation = getattr(getattr(model[0], "model", None), "generation_config", None)  # of a model that writes
    chosen = generation.to_diff_dict() if generation is not None else {}
    choices = {
        "processing": first.get("processing_kwargs"),
        "default_prompt": model.default_prompt_name,
        "generation": {key: value for key, value in chosen.items() if key != "transformers_version"},
    }
    # A choice that is not made is left out, as if it were none of a model's settings.
    return json.dumps(known | {key: value for key, value in choices.items() if value}, sort_keys=True, default=dict)


def fingerprint(model: SentenceTransformer) -> str:
    """A short hash of the weights by value and of :func:`settings`.

    The same checkpoint has the same fingerprint wherever it is loaded, also after a lossless change of dtype.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    digest.update(settings(model).encode())
    return digest.hexdigest()[:16]
