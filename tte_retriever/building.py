"""From a backbone to a folder that plain SentenceTransformer loads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer

from tte_retriever.backbones import INITS, Backbone, Init, load_backbone
from tte_retriever.errors import InputError
from tte_retriever.methods import direct, explicit_cot, tte_flash

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

MAX_THINK_TOKENS = 64


@dataclass(frozen=True)
class _Method:
    """How one method is built.

    Attributes:
        modules: Makes its modules of a backbone.
        think_tokens: How many when none are given.
        most: How many it may have.
        first: Class of its first module; one of ours needs our code to load.
        thought: What its checkpoint is, for the card.
    """

    modules: Callable[..., list[nn.Module]]
    think_tokens: int
    most: int = MAX_THINK_TOKENS
    first: type[Transformer] = Transformer
    thought: str = "with {} think tokens and one embed token in its vocabulary and chat template"


METHODS = {
    "direct": _Method(direct.build, 0),
    "tte-flash": _Method(tte_flash.build, 8),
    "explicit-cot": _Method(
        explicit_cot.build,
        512,
        most=8192,
        first=explicit_cot.ExplicitCoT,
        thought="that writes a rationale of up to {} tokens and then its embed token",
    ),
}
"""What can be built."""


def build(
    out: str | Path,
    *,
    backbone: str | Path,
    method: str = "tte-flash",
    think_tokens: int | None = None,
    init: Init = "mean",
    seed: int = 0,
) -> Path:
    """Turn a Qwen2-VL, Qwen2.5-VL or Qwen3-VL checkpoint into one that thinks before it embeds, not trained yet.

    Only the embedding model is kept. A language-model head that is tied to the embedding matrix is that matrix; an
    untied one is dropped, and what decodes from the result decodes by the embedding matrix. ``explicit-cot``, which writes
    at inference, keeps it.

    The folder appears when it is complete: a build that fails leaves none.

    Args:
        out: The new folder; it must not exist, or be empty.
        backbone: Folder or hub id, of a transformers checkpoint or of a SentenceTransformer.
        method: ``direct``, ``tte-flash`` or ``explicit-cot``.
        think_tokens: K, 0…64; ``None`` is the method's own: 8 for ``tte-flash``, 0 for ``direct``. For ``explicit-cot`` it is
            the most tokens of a rationale, 0…8192, and 512 if not given.
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
    chosen = METHODS[method]
    count = chosen.think_tokens if think_tokens is None else think_tokens
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= chosen.most:
        raise InputError(f"think_tokens is {think_tokens!r}; give an int from 0 to {chosen.most}.")
    if init not in INITS:
        raise InputError(f"init is {init!r}; it can be {' or '.join(INITS)}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{str(out)!r} exists and is not an empty folder; give another name or remove it first.")
    loaded = load_backbone(backbone, chosen.first)
    model = SentenceTransformer(
        modules=chosen.modules(loaded, count, init=init, seed=seed),
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
    tied, chosen = loaded.transformer.model.config.tie_word_embeddings, METHODS[method]
    flag = "" if chosen.first is Transformer else " with `trust_remote_code=True`"
    kept = loaded.transformer.model.get_output_embeddings() is not None
    untied = "its own (untied)" if kept else "none: the backbone's own, untied, is not kept"
    return f"""---
library_name: sentence-transformers
pipeline_tag: feature-extraction
tags: [sentence-transformers, tte-retriever]
---
# {method} on {name}: NOT TRAINED YET

A {loaded.spec.name} backbone {chosen.thought.format(think_tokens)}, as
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
| output head | {"the embedding matrix (tied)" if tied else untied} |

Built by `tte-retriever build`. Plain `SentenceTransformer` loads this folder{flag}; `TTEEncoder` of `tte-retriever` adds typed
inputs and `think_budget`, 0 to {think_tokens}. The licence is that of the backbone.
"""
