"""Rows of the embedding matrix for new tokens."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import torch

from tte_retriever.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from tte_retriever.backbones.qwen_vl import QwenVLModel

Init = Literal["mean", "keep", "read-out"]
"""How the rows of new tokens start.

``mean`` is the mean of all used rows plus half their standard deviation as noise. ``keep`` leaves them as the backbone has
them. ``read-out`` is ``mean``, except that the embed token starts as the token at which the backbone reads its embedding.
"""


_MULTIPLE = 64  # matrix sizes that kernels run fast on


def check_rows(tokenizer: PreTrainedTokenizerBase, matrix: nn.Embedding, name: str | None) -> None:
    """Refuse an embedding matrix with fewer rows than there are tokens.

    Args:
        tokenizer: The tokens.
        matrix: The input embedding, (V, D).
        name: Of the checkpoint, for the message.

    Raises:
        CheckpointError: The two are not from the same checkpoint.
    """
    if len(tokenizer) > matrix.num_embeddings:
        raise CheckpointError(
            f"The tokenizer of {name!r} has {len(tokenizer)} tokens but its embedding matrix only {matrix.num_embeddings} "
            "rows, so they are not from the same checkpoint. Give a folder in which they were saved together."
        )


def add_token_rows(
    model: QwenVLModel,
    new_ids: Sequence[int],
    *,
    init: Init,
    seed: int,
    copied: Mapping[int, int] = MappingProxyType({}),
) -> None:
    """Give new token ids their rows, in place; the same arguments give the same rows.

    Args:
        model: The backbone. Its (V, D) input embedding grows, to a multiple of 64, only if ``new_ids`` do not fit.
        new_ids: Ids of the added tokens, above all older ones.
        init: How their rows start.
        seed: Seed of the random part.
        copied: New id to older id: rows that start as those of older tokens, whatever ``init`` is.

    Example:
        >>> from tte_retriever import TTEEncoder
        >>> from tte_retriever.backbones import qwen_vl_model
        >>> model = qwen_vl_model(TTEEncoder("tte-flash-tiny", device="cpu").transformer)
        >>> rows = model.get_input_embeddings().num_embeddings
        >>> add_token_rows(model, [rows, rows + 1], init="mean", seed=0)
        >>> (model.get_input_embeddings().num_embeddings - rows) > 1
        True
    """
    if not new_ids:
        return
    matrix = model.get_input_embeddings()
    if max(new_ids) >= matrix.num_embeddings:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            matrix = model.resize_token_embeddings(max(new_ids) + 1, pad_to_multiple_of=_MULTIPLE)
    weight = matrix.weight.data
    if init != "keep":
        used = weight[: min(new_ids)].float()  # (tokens before the new ones, D)
        noise = torch.randn(len(new_ids), weight.shape[1], generator=torch.Generator().manual_seed(seed))
        rows = used.mean(0) + 0.5 * used.std(0) * noise.to(used.device)
        weight[list(new_ids)] = rows.to(weight.dtype)
    for new_id in copied.keys() & set(new_ids):
        weight[new_id] = weight[copied[new_id]]
