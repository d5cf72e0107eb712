"""A training pass of PLUME: after its latent steps, it reads what it should have written."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, cast

from tte_retriever.backbones.qwen_vl import qwen_vl_model
from tte_retriever.errors import InputError
from tte_retriever.explain.decoding import output_matrix
from tte_retriever.training.rationale import token_nll

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sentence_transformers.sentence_transformer.modules import Transformer
    from torch import Tensor, nn


class SuffixPass:
    """The :class:`~tte_retriever.training.rationale.RationalePass` of PLUME."""

    def decodable(self, _input_ids: Tensor, rationale_ids: Tensor) -> Tensor:
        """Rows that write anything; (B,) bool. ``rationale_ids`` is (B, R)."""
        return (rationale_ids >= 0).any(1)

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
            states = features["suffix_states"][:, :-1]  # (B, R, D)
            features["rationale_nll"] = token_nll(
                states, cast("Tensor", rationale_ids), output_matrix(qwen_vl_model(transformer))
            )

        with ExitStack() as hooks:
            if rationale_ids is not None:
                hooks.callback(transformer.register_forward_pre_hook(give).remove)
                hooks.callback(transformer.register_forward_hook(score).remove)
            yield
