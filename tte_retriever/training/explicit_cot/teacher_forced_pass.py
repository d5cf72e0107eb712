"""A training pass of a model that writes rationales: it reads the rationale that it should have written."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch.nn import functional as F

from tte_retriever.backbones.qwen_vl import qwen_vl_model
from tte_retriever.explain.decoding import output_matrix
from tte_retriever.training.rationale import RationalePass, token_nll

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sentence_transformers.sentence_transformer.modules import Transformer
    from torch import Tensor, nn


@dataclass(frozen=True)
class TeacherForcedPass(RationalePass):
    """The :class:`~tte_retriever.training.rationale.RationalePass` of explicit chain of thought.

    Attributes:
        gen_id: The model's embed token, which ends a rationale.
    """

    gen_id: int

    def written(self, rationale_ids: Tensor) -> Tensor:
        """Rationales that all end in the embed token, also those that were cut and those that are empty.

        Args:
            rationale_ids: Padded with -100.  (B, R) int64

        Returns:
            Padded with -100.  (B, R + 1) int64
        """
        ended = (rationale_ids == self.gen_id).any(1)
        end = (rationale_ids >= 0).sum(1) - ended.long()  # (B,)
        return F.pad(rationale_ids, (0, 1), value=-100).scatter(1, end[:, None], self.gen_id)  # (B, R + 1)

    @contextmanager
    def attached_to(self, transformer: Transformer, rationale_ids: Tensor | None) -> Iterator[None]:
        """Within, ``transformer`` reads ``rationale_ids`` (B, R) after its prompts; without them, only the embed token."""

        def give(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            features = args[0]
            given = features["input_ids"][:, :0] if rationale_ids is None else rationale_ids
            return {**features, "written_ids": self.written(given)}, *args[1:]

        def score(_module: nn.Module, _args: Any, features: dict[str, Any]) -> None:
            if rationale_ids is None:
                return
            rows = self.decodable(features["input_ids"], rationale_ids).nonzero()[:, 0]
            nll = features["token_embeddings"].new_zeros(len(rationale_ids)).float()  # (B,)
            if len(rows):
                first = features["input_ids"].shape[1] - features["written_ids"].shape[1]
                # The state in front of each token predicts it.
                predicting = slice(first - 1, first - 1 + rationale_ids.shape[1])
                states = features["token_embeddings"][rows, predicting]  # (rows, R, D)
                of_rows = token_nll(states, rationale_ids[rows], output_matrix(qwen_vl_model(transformer)))
                nll = nll.index_put((rows,), of_rows)
            features["rationale_nll"] = nll

        with transformer.register_forward_pre_hook(give), transformer.register_forward_hook(score):
            yield
