"""A training pass through a model that thinks in words: it reads the rationale that it should have written."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch.nn import functional as F

from tte_retriever.explain.decoding import output_matrix
from tte_retriever.training.rationale import token_nll

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn


@dataclass(frozen=True)
class TeacherForcing:
    """How a model reads in training.

    Attributes:
        gen_id: Its embed token, which ends a rationale.
    """

    gen_id: int

    def decodes(self, input_ids: Tensor, rationale_ids: Tensor) -> Tensor:
        """True for rows with a rationale (B, R); (B,)."""
        return (rationale_ids >= 0).any(1)

    def written(self, rationale_ids: Tensor) -> Tensor:
        """Rationales that all end in the embed token, also those that were cut and those that there are none of.

        Args:
            rationale_ids: (B, R) int64, padded with -100.

        Returns:
            (B, R + 1) int64, padded with -100.
        """
        ended = (rationale_ids == self.gen_id).any(1)
        end = (rationale_ids >= 0).sum(1) - ended.long()  # (B,)
        return F.pad(rationale_ids, (0, 1), value=-100).scatter(1, end[:, None], self.gen_id)  # (B, R + 1)

    @contextmanager
    def during(self, transformer: nn.Module, rationale_ids: Tensor | None) -> Iterator[None]:
        """Within, ``transformer`` reads ``rationale_ids`` (B, R) behind its prompts, and features carry ``rationale_nll`` (B,).

        Without ``rationale_ids`` it reads nothing but the embed token, and there is no ``rationale_nll``.
        """

        def given(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            features = args[0]
            rationales = (
                features["input_ids"].new_empty(len(features["input_ids"]), 0)
                if rationale_ids is None
                else rationale_ids
            )
            return {**features, "written_ids": self.written(rationales)}, *args[1:]

        def judge(module: nn.Module, _args: Any, features: dict[str, Any]) -> None:
            if rationale_ids is None:
                return
            rows = self.decodes(features["input_ids"], rationale_ids).nonzero()[:, 0]
            nll = features["token_embeddings"].new_zeros(len(rationale_ids)).float()  # (B,)
            if len(rows):
                first = features["input_ids"].shape[1] - features["written_ids"].shape[1]
                states = features["token_embeddings"][
                    rows, first - 1 : first - 1 + rationale_ids.shape[1]
                ]  # (rows, R, D)
                of_rows = token_nll(states, rationale_ids[rows], output_matrix(module.model))  # type: ignore[arg-type]
                nll = nll.index_put((rows,), of_rows)
            features["rationale_nll"] = nll

        hooks = transformer.register_forward_pre_hook(given), transformer.register_forward_hook(judge)
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
