"""The loss of PLUME: what is still written, two embeddings, and a balance of the experts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import torch
from sentence_transformers.util import all_gather_with_grad
from transformers import TrainerCallback

from tte_retriever.errors import InputError, check_choice
from tte_retriever.methods.plume import PlumeTransformer
from tte_retriever.training.cached_contrastive import CachedContrastiveLoss, check_weights
from tte_retriever.training.plume.balance import Balance, RoutingSummary, batch_balance
from tte_retriever.training.plume.curriculum import Curriculum
from tte_retriever.training.plume.suffix_pass import SuffixPass

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sentence_transformers import SentenceTransformer
    from torch import Tensor

    from tte_retriever.training.cached_contrastive import Batch


class PlumeLoss(CachedContrastiveLoss):
    """InfoNCE after the thought and before it, the NLL of what is written after it, and load balance of the experts.

    After PLUME (arXiv 2604.02073). Inputs are those of
    :class:`~tte_retriever.training.cached_contrastive.CachedContrastiveLoss`, but ``rationale_ids`` are (B, phases, R) int64,
    padded on the right with -100: what is written, ``<gen_emb>`` included, in each phase of the curriculum. The phase is
    that of ``progress``, which the trainer sets through ``callbacks``. Every row of a column that has them writes something,
    if only the end.

    ``metrics`` holds, after each call with latent steps, the router's entropy in nats, the share of the choices that fell on
    the busiest expert (1/N where the load is even), and the number of steps.

    Args:
        model: Of the method ``plume``.
        curriculum: Phases; it has to end in as many latent steps as the model takes.
        disc_weight: Of InfoNCE between the states at ``<disc_emb>``, in front of the thought; 0 leaves it out.
        balance_weight: Of the load balance; 0 leaves it out.
        balance: ``batch`` asks for experts that are equally busy over the batch. ``step`` pulls the routing of each step
            towards evenness, as the original does; then no expert can specialise.
        **options: Those of :class:`~tte_retriever.training.cached_contrastive.CachedContrastiveLoss`. With
            ``rationale_weight=0`` the model still reads what should be written.

    Raises:
        InputError: An option is out of range, or the model is of another method.
    """

    OPTIONS = (*CachedContrastiveLoss.OPTIONS, "curriculum", "disc_weight", "balance_weight", "balance")
    PARTS = ("contrastive", "disc", "rationale", "balance")
    METRICS = ("routing_entropy", "largest_load", "latent_steps")

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        curriculum: Curriculum | None = None,
        disc_weight: float = 1.0,
        balance_weight: float = 0.1,
        balance: Balance = "batch",
        **options: Any,
    ) -> None:
        check_weights(disc_weight=disc_weight, balance_weight=balance_weight)
        check_choice("balance", balance, get_args(Balance))
        curriculum = curriculum or Curriculum()
        first = _checked_module(model, curriculum)
        super().__init__(model, **options)
        self.curriculum = curriculum
        self.disc_weight, self.balance_weight, self.balance = disc_weight, balance_weight, balance
        self.chosen, self.routes = first.options.active_experts, first.options.experts > 0
        if balance_weight and not self.routes:
            raise InputError(
                f"balance_weight is {balance_weight}, but this PLUME has no adapter, and so no experts to balance; give 0."
            )
        self.progress = 0.0
        self.callbacks = (_FollowProgress(self),)

    @property
    def rationale_pass(self) -> SuffixPass:
        """The model reads what it should have written after its latent steps."""
        return SuffixPass()

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> dict[str, Tensor]:
        """The weighted parts, in the phase of the curriculum that ``progress`` is in."""
        index = self.curriculum.phase_at(self.progress)
        latents = self.curriculum.phases[index].latents
        columns = []
        for column in sentence_features:
            given = {**column, "think_budget": torch.full_like(column["input_ids"][:, 0], latents)}  # (B,)
            if "rationale_ids" in column:
                ids = column["rationale_ids"][:, index]  # (B, R)
                given["rationale_ids"] = ids[:, : int((ids >= 0).sum(1).max())]
            columns.append(given)
        parts = super().forward(columns)
        self.metrics["latent_steps"] = torch.full_like(self.log_scale.detach(), latents)
        return parts

    def _row_extras(self, features: dict[str, Any]) -> dict[str, Tensor]:
        """Besides the NLL, the state at ``<disc_emb>`` (mini-batch, D), and the packed routing."""
        extras = super()._row_extras(features) | {"disc": features["anchor_state"].float()}
        if self.routes:
            extras["routing"] = RoutingSummary.of(features["routing"].float(), self.chosen).packed
        return extras

    def _parts(self, vectors: list[Tensor], extras: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        parts = super()._parts(vectors, extras, batch)
        if self.disc_weight:
            parts["disc"] = self.disc_weight * self._contrastive_of_extra(extras["disc"], len(vectors), batch)
        if not self.routes:
            return parts
        mean = extras["routing"].mean(0, keepdim=True)  # (1, packed)
        if self._gathers:
            mean = all_gather_with_grad(mean).mean(0, keepdim=True)
        routing = RoutingSummary.unpacked(mean)
        if self.balance_weight:
            over_batch = batch_balance(routing.probabilities[0], routing.loads[0])
            parts["balance"] = self.balance_weight * (over_batch if self.balance == "batch" else routing.deviation[0])
        self.metrics = {"routing_entropy": routing.entropy[0].detach(), "largest_load": routing.loads.max().detach()}
        return parts


def _checked_module(model: SentenceTransformer, curriculum: Curriculum) -> PlumeTransformer:
    """The model's first module, if it is a PLUME that takes as many latent steps as the curriculum ends in."""
    first = model[0]
    if not isinstance(first, PlumeTransformer) or first.options.readout != "gen":
        raise InputError("This is not a PLUME that embeds after its latent steps; build one with the method plume.")
    if first.max_budget != curriculum.steps:
        raise InputError(
            f"The curriculum ends in {curriculum.steps} latent steps (segments times latents_per_segment), but the model "
            f"takes {first.max_budget}; make them equal."
        )
    return first


class _FollowProgress(TrainerCallback):
    """Sets a loss's ``progress``, and clears Adam's moments with each ratio, where the curriculum says so."""

    def __init__(self, loss: PlumeLoss) -> None:
        self.loss = loss

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_kwargs: Any) -> None:
        """Before the batches of an optimiser step."""
        curriculum = self.loss.curriculum
        self.loss.progress = state.global_step / state.max_steps
        if curriculum.reset_moments and state.global_step:
            now, before = (
                curriculum.phases[curriculum.phase_at(step / state.max_steps)].latents
                for step in (state.global_step, state.global_step - 1)
            )
            if now != before:
                optimizer.state.clear()
