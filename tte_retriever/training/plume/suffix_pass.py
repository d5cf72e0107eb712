"""A training pass of PLUME: after its latent steps, it reads what it should have written."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tte_retriever.backbones.qwen_vl import qwen_vl_model
from tte_retriever.errors import InputError
from tte_retriever.explain.decoding import output_matrix
from tte_retriever.training.rationale import RationalePass, token_nll

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sentence_transformers.sentence_transformer.modules import Transformer
    from torch import Tensor, nn


class SuffixPass(RationalePass):
    """The :class:`~tte_retriever.training.rationale.RationalePass` of PLUME."""

    @contextmanager
    def attached_to(self, transformer: Transformer, rationale_ids: Tensor | None) -> Iterator[None]:
        """Within, ``transformer`` reads ``rationale_ids`` (B, R) after its latent steps.

        The last latent state predicts the first of them.

        Raises:
            InputError: Under gradient checkpointing.
        """
        layers = qwen_vl_model(transformer).language_model.layers
        if any(layer.training and layer.gradient_checkpointing for layer in layers):
            raise InputError(
                "PLUME's latent steps need keys and values, which gradient checkpointing does not keep; turn it off, and set "
                "loss.mini_batch_size to what memory allows."
            )

        def give(_module: nn.Module, args: tuple[dict[str, Any]]) -> None:
            args[0]["written_ids"] = rationale_ids

        def score(_module: nn.Module, _args: Any, features: dict[str, Any]) -> None:
            if rationale_ids is not None:
                states, matrix = features["suffix_states"][:, :-1], output_matrix(qwen_vl_model(transformer))
                features["rationale_nll"] = token_nll(states, rationale_ids, matrix)  # states are (B, R, D)

        with transformer.register_forward_pre_hook(give), transformer.register_forward_hook(score):
            yield
