"""From a backbone to a folder that plain SentenceTransformer loads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sentence_transformers import SentenceTransformer

from tte_retriever.backbones import INITS, Backbone, Init, load_backbone
from tte_retriever.errors import InputError
from tte_retriever.methods import direct, lame, tte_flash

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

MAX_THINK_TOKENS = 64


@dataclass(frozen=True)
class _Method:
    modules: Callable[..., list[nn.Module]]
    think_tokens: int


METHODS = {
    "direct": _Method(direct.build, 0),
    "tte-flash": _Method(tte_flash.build, 8),
    "lame": _Method(lame.build, 8),
}
"""What can be built, with the number of think tokens when none is given."""


def build(
    out: str | Path,
    *,
    backbone: str | Path,
    method: str = "tte-flash",
    think_tokens: int | None = None,
    init: Init = "mean",
    seed: int = 0,
) -> Path:
    """Turn a Qwen2-VL, Qwen2.5-VL or Qwen3-VL checkpoint into a think-token checkpoint, not trained yet.

    Only the embedding model is kept. A language-model head that is tied to the embedding matrix is that matrix; an
    untied one is dropped, and what decodes from the result decodes by the embedding matrix.

    The folder appears when it is complete: a build that fails leaves none.

    Args:
        out: The new folder; it must not exist, or be empty.
        backbone: Folder or hub id, of a transformers checkpoint or of a SentenceTransformer.
        method: ``direct``, ``tte-flash`` or ``lame``.
        think_tokens: K, 0…64; ``None`` is the method's own: 8 for ``tte-flash`` and ``lame``, 0 for ``direct``.
        init: How the rows of the new tokens start: ``mean`` is the mean row plus half a standard deviation of noise,
            ``keep`` leaves what the backbone has there.
        seed: Of the rows; the same seed gives the same checkpoint.

    Returns:
        ``out``.

    Raises:
        InputError: An unusable argument, or a backbone that cannot be had.
        CheckpointError: A backbone of another family, or one that already has think tokens.
    """
    out = Path(out)
    if method not in METHODS:
        raise InputError(f"method is {method!r}; it can be {' or '.join(METHODS)}.")
    count = METHODS[method].think_tokens if think_tokens is None else think_tokens
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= MAX_THINK_TOKENS:
        raise InputError(f"think_tokens is {think_tokens!r}; give an int from 0 to {MAX_THINK_TOKENS}.")
    if init not in INITS:
        raise InputError(f"init is {init!r}; it can be {' or '.join(INITS)}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{str(out)!r} exists and is not an empty folder; give another name or remove it first.")
    loaded = load_backbone(backbone)
    model = SentenceTransformer(
        modules=METHODS[method].modules(loaded, count, init=init, seed=seed),
        prompts=loaded.prompts,
        default_prompt_name=loaded.default_prompt_name,
        similarity_fn_name=loaded.similarity_fn_name,
        device="cpu",
    )
    card = _card(loaded, _public_name(backbone), method, count, init, seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        folder = Path(scratch) / out.name
        model.save_pretrained(str(folder), create_model_card=False)
        (folder / "README.md").write_text(card, encoding="utf-8")
        if out.exists():
            out.rmdir()  # empty, as was checked; a folder that was filled since makes this fail
        folder.rename(out)
    return out


def _public_name(backbone: str | Path) -> str:
    """A hub id as it is, a local folder by its last name: cards travel, and paths say where people live."""
    return Path(backbone).resolve().name if Path(backbone).exists() else str(backbone)


def _card(loaded: Backbone, name: str, method: str, think_tokens: int, init: str, seed: int) -> str:
    tied = loaded.transformer.model.config.tie_word_embeddings
    return f"""---
library_name: sentence-transformers
pipeline_tag: feature-extraction
tags: [sentence-transformers, tte-retriever]
---
# {method} on {name}: NOT TRAINED YET

A {loaded.spec.name} backbone with {think_tokens} think tokens and one embed token in its vocabulary and chat template, as
the starting point of training. **It has not been trained: its vectors are well-formed, and their ranking means little.**

| | |
|---|---|
| backbone | `{name}` ({loaded.spec.model_type}) |
| method | `{method}` |
| think tokens (K) | {think_tokens} |
| rows of the new tokens | `{init}`, seed {seed} |
| one visual token | {loaded.spec.token_px} x {loaded.spec.token_px} pixels |
| time of a video | {loaded.spec.video_times} |
| prompts kept | {", ".join(f"`{name}`" for name, prompt in loaded.prompts.items() if prompt) or "none"} |
| output head | {"the embedding matrix (tied)" if tied else "none: the backbone's own, untied, is not kept"} |

Built by `tte-retriever build`. Plain `SentenceTransformer` loads this folder; `TTEEncoder` of `tte-retriever` adds typed
inputs and `think_budget`, 0 to {think_tokens}. The licence is that of the backbone.
"""
