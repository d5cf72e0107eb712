"""The loss of explicit chain of thought: a rationale to write, and a contrastive part on the embedding after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from tte_retriever.errors import InputError
from tte_retriever.methods.explicit_cot import ExplicitCoT
from tte_retriever.training.cached_contrastive import CachedContrastiveLoss, check_weights
from tte_retriever.training.explicit_cot.teacher_forced_pass import TeacherForcedPass

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import Tensor

    from tte_retriever.training.cached_contrastive import Batch


class ExplicitCoTLoss(CachedContrastiveLoss):
    """InfoNCE after a rationale and in front of it, and the NLL of the rationale.

    After TTE (arXiv 2510.05014) and UME-R1 (arXiv 2511.00405). The model reads the rationale after the prompt, as if it had
    written it (teacher forcing). The generation part is the NLL of the rationale and of the embed token that ends it. The
    contrastive part is on the state of that token; ``disc`` is the same on the ``disc`` embedding, in front of the
    rationale. Inputs are those of :class:`~tte_retriever.training.cached_contrastive.CachedContrastiveLoss`, with
    ``rationale_ids`` that end in the embed token unless they were cut. A row without a rationale is embedded without one.

    Args:
        model: Built with the method ``explicit-cot``, in mode ``gen``.
        disc_weight: Of the contrastive part on the ``disc`` embedding; 0 leaves it out.
        **options: Those of :class:`~tte_retriever.training.cached_contrastive.CachedContrastiveLoss`. With
            ``rationale_weight=0`` the model still reads the rationales.

    Raises:
        InputError: An option is out of range, or the model is of another method.
    """

    OPTIONS = (*CachedContrastiveLoss.OPTIONS, "disc_weight")
    PARTS = (*CachedContrastiveLoss.PARTS, "disc")

    def __init__(self, model: SentenceTransformer, *, disc_weight: float = 1.0, **options: Any) -> None:
        first = model[0]
        if not isinstance(first, ExplicitCoT) or first.mode != "gen":
            raise InputError("This model writes no rationale; give one of the method explicit-cot in mode 'gen'.")
        check_weights(disc_weight=disc_weight)
        super().__init__(model, **options)
        self.disc_weight = disc_weight
        self.gen_id = first.gen_id

    @property
    def rationale_pass(self) -> TeacherForcedPass:
        """The model reads the rationale after the prompt."""
        return TeacherForcedPass(self.gen_id)

    def _row_extras(self, features: dict[str, Any]) -> dict[str, Tensor]:
        """Besides the NLL, the ``disc`` embedding; (mini-batch, E)."""
        first, *head = self.plain_model
        read = {**features, "attention_mask": cast("ExplicitCoT", first).up_to_disc(features)}
        for module in head:
            read = module(read)
        return super()._row_extras(features) | {"disc": read["sentence_embedding"].float()}

    def _check(self, columns: list[dict[str, Any]]) -> None:
        super()._check(columns)
        if self.disc_weight and len(columns) < 2:
            raise InputError(f"The disc part takes an anchor and a positive column, but {len(columns)} was given.")

    def _parts(self, vectors: list[Tensor], extras: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        parts = super()._parts(vectors, extras, batch)
        if self.disc_weight:
            disc = self._contrastive_of_extra(extras["disc"], len(vectors), batch)
            parts["disc"] = self.disc_weight * disc
        return parts
