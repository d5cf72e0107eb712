"""Import the public UME-R1 checkpoints (arXiv 2511.00405): Qwen2-VL checkpoints with two more tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoConfig, AutoModelForMultimodalLM

from tte_retriever.backbones import load_backbone, qwen_vl_model, qwen_vl_tokenizer
from tte_retriever.backbones.rows import check_rows
from tte_retriever.errors import CheckpointError, InputError
from tte_retriever.importing.layout import check_names, read_weights, renamed
from tte_retriever.methods.explicit_cot import DISC_TOKEN, GEN_TOKEN, ExplicitCoT, Mode, build
from tte_retriever.methods.plume_prompt import add_plume_prompt

if TYPE_CHECKING:
    from pathlib import Path

CARD = """# {name}, imported

UME-R1 (arXiv 2511.00405): `{name}` with its authors' prompt, in the layout of `tte-retriever`. The weights are theirs,
unchanged, and so is their licence.

It writes a rationale and embeds after it, or, in mode `disc`, embeds without one. `TTEEncoder` of `tte-retriever` loads this
folder, or `SentenceTransformer` with `trust_remote_code=True`. `think_budget` is the most tokens of a rationale; mode and
largest budget are in `sentence_bert_config.json`. Tokens are chosen greedily; `generation_config.json` can say otherwise.

Imported by `tte-retriever import --from ume-r1`.
"""


@dataclass(frozen=True)
class Settings:
    """Settings that the authors have in their scripts.

    Attributes:
        mode: ``gen`` embeds after a rationale, ``disc`` without one.
        most_tokens: Largest number of tokens of a rationale.
    """

    mode: Mode = "gen"
    most_tokens: int = 4096


def load(folder: Path, settings: Settings) -> SentenceTransformer:
    """Load a folder that UME-R1's trainer saved.

    Args:
        folder: The original folder.
        settings: Settings that are not in its files.

    Raises:
        CheckpointError: A token or a weight is missing, or a weight is not expected.
        InputError: Settings that cannot be used, or a folder that is not a checkpoint.
    """
    if isinstance(settings.most_tokens, bool) or settings.most_tokens < 1:
        raise InputError(f"most_tokens is {settings.most_tokens!r}; give a positive number.")
    _check_weights(folder)
    loaded = load_backbone(folder, ExplicitCoT)
    transformer = loaded.transformer
    assert isinstance(transformer, ExplicitCoT)
    transformer.mode = settings.mode
    tokenizer = qwen_vl_tokenizer(transformer)
    if lacking := [token for token in (GEN_TOKEN, DISC_TOKEN) if token not in tokenizer.get_added_vocab()]:
        raise CheckpointError(
            f"The tokenizer in {str(folder)!r} lacks {', '.join(lacking)}, so it is not the tokenizer of UME-R1. Give "
            "the folder in which its tokenizer was saved with its weights."
        )
    check_rows(tokenizer, qwen_vl_model(transformer).get_input_embeddings(), str(folder))
    modules = build(loaded, settings.most_tokens, ask=partial(add_plume_prompt, prefix=""))
    return SentenceTransformer(modules=modules, similarity_fn_name="cosine", device="cpu")


def _check_weights(folder: Path) -> None:
    """Raise unless the files hold every weight, because transformers would initialise a missing one at random."""
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{str(folder)!r} holds no config.json that can be read; give the folder of the original, or its hub id."
        ) from error
    with torch.device("meta"):
        model = AutoModelForMultimodalLM.from_config(config)
    shapes = {renamed(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    weights = {renamed(name): tensor for name, tensor in read_weights(folder).items()}
    if config.tie_word_embeddings:
        shapes.pop("lm_head.weight"), weights.pop("lm_head.weight", None)
    check_names(shapes, weights, "UME-R1")
