"""Model folders: bundled models by name, and new folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tte_retriever.atomic import atomic_write
from tte_retriever.errors import InputError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_MODELS = Path(__file__).parent / "models"

_CARD_HEADER = """---
library_name: sentence-transformers
pipeline_tag: feature-extraction
tags: [sentence-transformers, tte-retriever]
---
"""


def bundled_models() -> list[str]:
    """Names of the models in the package."""
    return sorted(folder.name for folder in _MODELS.iterdir() if (folder / "modules.json").is_file())


def model_path(name: str) -> str:
    """The folder of a bundled model, for plain ``SentenceTransformer``.

    Raises:
        InputError: If no bundled model has this name.

    Example:
        >>> from sentence_transformers import SentenceTransformer
        >>> from tte_retriever import model_path
        >>> SentenceTransformer(model_path("tte-flash-tiny"), device="cpu").encode("a red circle").shape
        (128,)
    """
    if name not in bundled_models():
        raise InputError(
            f"No bundled model is called {name!r}; there is {', '.join(bundled_models()) or 'none'}. "
            "Give a folder or a hub id to TTEEncoder directly."
        )
    return str(_MODELS / name)


def resolve_model(name_or_path: str) -> str:
    """The folder of a bundled model; a local folder or a hub id unchanged."""
    if not Path(name_or_path).exists() and name_or_path in bundled_models():
        return model_path(name_or_path)
    return name_or_path


def check_output_dir(out: Path) -> None:
    """Raise unless a new folder can be written to ``out``: it is absent or empty, and not the current folder."""
    if out.resolve() == Path.cwd():
        raise InputError(f"{str(out)!r} is the current folder, which cannot be replaced; name a new folder in it.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{str(out)!r} exists and is not an empty folder; give another name or remove it first.")


def save_model(model: SentenceTransformer, folder: Path, card: str | None = None) -> Path:
    """Save a model in the layout that engines load; ``folder`` holds all of it or does not exist, also after a power cut.

    Args:
        model: What is saved.
        folder: It must not exist, or be empty; see :func:`check_output_dir`.
        card: Its ``README.md``, without the header for the hub.

    Returns:
        ``folder``.
    """
    from tte_retriever.backbones.engine_layout import engine_layout  # names of models are looked up without it

    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder) as draft:
        with engine_layout(model[0]):
            model.save_pretrained(str(draft), create_model_card=False)
        if card is not None:
            (draft / "README.md").write_text(_CARD_HEADER + card, encoding="utf-8")
    return folder


def public_name(source: str | Path) -> str:
    """A hub id, or the last name of a local folder: model cards are public and should not contain paths."""
    return Path(source).resolve().name if Path(source).exists() else str(source)
