"""The loss of explicit chain of thought: a rationale to write, and a contrastive part on the embedding after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from accelerate.utils import extract_model_from_parallel
from sentence_transformers.util import all_gather_with_grad

from tte_retriever.errors import InputError
from tte_retriever.methods.explicit_cot import ExplicitCoT
from tte_retriever.training.explicit_cot.teacher_forcing import TeacherForcing
from tte_retriever.training.tte_flash.loss import TTELoss

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import Tensor

    from tte_retriever.training.tte_flash.loss import Batch


class ExplicitCoTLoss(TTELoss):
    """:class:`TTELoss` of a model that reads a rationale after the prompt, teacher-forced, as if it had written it.

    The generation part is the NLL of the rationale and of the embed token that ends it; the contrastive part is on the
    state of that token, whatever the weights are; ``disc`` is the same on the ``disc`` embedding, in front of the
    rationale. Features are those of :class:`TTELoss`, with ``rationale_ids`` that end in the embed token unless they were cut. A
    row without a rationale is embedded without one.

    Args:
        model: Built with the method ``explicit-cot``, in mode ``gen``.
        rationale_weight: Of the generation part; 0 leaves it out, but rationales are read all the same.
        disc_weight: Of the contrastive part on the ``disc`` embedding; 0 leaves it out.
        **options: As for :class:`TTELoss`; what is about think tokens stays as it is.

    Raises:
        InputError: As for :class:`TTELoss`, or if the model thinks otherwise.
    """

    PARTS = ("contrastive", "rationale", "disc")

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        rationale_weight: float = 1.0,
        disc_weight: float = 1.0,
        **options: Any,
    ) -> None:
        if not isinstance(model[0], ExplicitCoT) or model[0].mode != "gen":
            raise InputError(
                "This model writes no rationale; give one of the method explicit-cot, and leave its mode at 'gen'."
            )
        if min(rationale_weight, disc_weight) < 0:
            raise InputError(
                f"rationale_weight is {rationale_weight} and disc_weight {disc_weight}; give 0 to leave a part out, or a "
                "positive number."
            )
        super().__init__(model, rationale_weight=0, **options)  # there are no think tokens to decode it from
        if (self.rationale_from, self.decoder, self.stop_gradient) != ("thought", "soft-prompt", False):
            raise InputError(
                "rationale_from, decoder and stop_gradient are about think tokens, and explicit-cot has none; leave them out."
            )
        self.rationale_weight = rationale_weight
        self.disc_weight = disc_weight
        self.ROW_EXTRAS = 1 + cast("int", model.get_embedding_dimension())

    @property
    def _thinking(self) -> TeacherForcing:  # type: ignore[override]  # both have the two methods that are used
        return TeacherForcing(cast("ExplicitCoT", self._plain_model[0]).gen_id)

    @property
    def _plain_model(self) -> SentenceTransformer:
        return cast("SentenceTransformer", extract_model_from_parallel(self.model, keep_torch_compile=False))

    @property
    def _reads_rationales(self) -> bool:
        return True

    def get_config_dict(self) -> dict[str, Any]:
        """The options, for the model card."""
        return super().get_config_dict() | {"disc_weight": self.disc_weight}

    def _row_extras(self, features: dict[str, Any]) -> list[Tensor]:
        """Besides the NLL, the ``disc`` embedding."""
        first, *head = self._plain_model
        read = {**features, "attention_mask": cast("ExplicitCoT", first).up_to_disc(features)}
        for module in head:
            read = module(read)
        return [*super()._row_extras(features), *read["sentence_embedding"].float().unbind(1)]

    def _check(self, columns: list[dict[str, Any]]) -> None:
        super()._check(columns)
        if self.disc_weight and len(columns) < 2:
            raise InputError(f"The disc part takes an anchor and a positive column, but {len(columns)} was given.")

    def _parts(self, vectors: list[Tensor], facts: Tensor, batch: Batch) -> dict[str, Tensor]:
        parts = super()._parts(vectors, facts, batch)
        if self.disc_weight:
            discs = list(facts[:, 1:].chunk(len(vectors)))  # (B, E) each
            if self.gather_across_devices:
                discs = [all_gather_with_grad(each) for each in discs]
            parts["disc"] = self.disc_weight * self._contrastive(discs, batch.candidates, batch.log_scale)
        return parts
