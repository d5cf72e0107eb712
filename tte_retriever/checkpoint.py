"""What is on disk: bundled models by name, and the fingerprint that tells two embedding spaces apart."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from tte_retriever.errors import InputError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_MODELS = Path(__file__).parent / "models"


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


def fingerprint(model: SentenceTransformer) -> str:
    """A short hash of everything that decides the vectors: weights by value, chat template, modules, dimension.

    The same checkpoint has the same fingerprint wherever it is loaded, also after a lossless change of dtype.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    template = getattr(model.processor, "chat_template", None)
    digest.update(repr((template, [type(module).__name__ for module in model], model.prompts)).encode())
    digest.update(str(model.truncate_dim or model.get_embedding_dimension()).encode())
    return digest.hexdigest()[:16]
