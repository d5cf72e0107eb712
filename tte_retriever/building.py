"""Build an untrained checkpoint of a method from a backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from sentence_transformers import SentenceTransformer

from tte_retriever.backbones import Backbone, Init, load_backbone
from tte_retriever.checkpoint import check_output_dir, public_name, save_model
from tte_retriever.errors import InputError, check_choice
from tte_retriever.methods.table import METHODS


def build(
    out: str | Path,
    *,
    backbone: str | Path,
    method: str = "tte-flash",
    think_tokens: int | None = None,
    init: Init | None = None,
    seed: int = 0,
    **options: Any,
) -> Path:
    """Build an untrained checkpoint of a method from a Qwen2-VL, Qwen2.5-VL, Qwen3-VL or Qwen3.5 backbone.

    Only the embedding model is saved. An untied language-model head is dropped, except for ``explicit-cot``, which writes at
    inference; everything else decodes rationales with the embedding matrix.

    The folder appears when it is complete, so a build that fails leaves nothing behind.

    Args:
        out: The new folder. It must not exist, or be empty.
        backbone: Folder or hub id of a transformers checkpoint or of a SentenceTransformer.
        method: ``direct``, ``tte-flash``, ``lame``, ``plume`` or ``explicit-cot``.
        think_tokens: K, the number of think tokens or latent steps, from 0 to 64 (32 for ``plume``). For ``explicit-cot`` it
            is the largest number of tokens of a rationale, from 0 to 8192. The default is 8, but 0 for ``direct`` and 512
            for ``explicit-cot``.
        init: How the embedding rows of the new tokens are initialised. ``mean`` is the mean row plus noise of half the
            standard deviation; ``keep`` leaves them as they are in the backbone; ``read-out`` is ``mean``, except that the
            embed token starts as the token at which the backbone reads its own embedding. ``None`` is ``read-out`` for an
            embedding model and ``mean`` for any other backbone.
        seed: Seed of the new rows; the same seed gives the same checkpoint.
        **options: Options of the method, such as ``instruction`` of ``plume``.

    Returns:
        ``out``.

    Raises:
        InputError: An argument that cannot be used, or a backbone that cannot be loaded.
        CheckpointError: A backbone of another family, or one that already has think tokens.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from tte_retriever import TTEEncoder, model_path
        >>> with TemporaryDirectory() as folder:
        ...     out = build(f"{folder}/plume", backbone=model_path("tte-flash-tiny"), method="plume", think_tokens=4)
        ...     TTEEncoder(str(out)).max_budget
        4
    """
    out = Path(out)
    check_choice("method", method, METHODS)
    chosen = METHODS[method]
    count = chosen.think_tokens if think_tokens is None else think_tokens
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= chosen.max_think_tokens:
        raise InputError(f"think_tokens is {think_tokens!r}; give an int from 0 to {chosen.max_think_tokens}.")
    if init is not None:
        check_choice("init", init, get_args(Init))
    check_output_dir(out)
    loaded = load_backbone(backbone, chosen.resolve("module_class"))
    if init is None:
        init = "mean" if loaded.read_out_id is None else "read-out"
    model = SentenceTransformer(
        modules=chosen.resolve("build")(loaded, count, init=init, seed=seed, **options),
        prompts=loaded.prompts,
        default_prompt_name=loaded.default_prompt_name,
        similarity_fn_name=loaded.similarity_fn_name,
        device="cpu",
    )
    card = _card(loaded, public_name(backbone), method, count, init, seed)
    return save_model(model, out, card)


def _card(loaded: Backbone, name: str, method: str, think_tokens: int, init: str, seed: int) -> str:
    model, head = loaded.transformer.model, "none: the backbone's own, untied, is not kept"
    if model.config.tie_word_embeddings:
        head = "the embedding matrix (tied)"
    elif model.get_output_embeddings() is not None:
        head = "its own (untied)"
    return f"""# {method} on {name}: NOT TRAINED YET

A {loaded.spec.name} backbone with {METHODS[method].card.format(k=think_tokens)}, as
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
| output head | {head} |

Built by `tte-retriever build`. {METHODS[method].loading}, 0 to {think_tokens}. The licence is that of the backbone.
"""
