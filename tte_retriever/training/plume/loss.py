"""The loss of PLUME: what is still written, two embeddings, and a balance of the experts."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast, get_args

import torch
import torch.distributed as dist
from sentence_transformers.util import all_gather_with_grad
from transformers import TrainerCallback

from tte_retriever.errors import InputError
from tte_retriever.explain.decoding import output_matrix
from tte_retriever.methods.plume import PlumeTransformer
from tte_retriever.training.plume.balance import Balance, RoutingSummary, batch_balance
from tte_retriever.training.plume.curriculum import Curriculum
from tte_retriever.training.rationale import token_nll
from tte_retriever.training.tte_flash.loss import TTELoss

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sentence_transformers import SentenceTransformer
    from torch import Tensor, nn

    from tte_retriever.training.tte_flash.loss import Batch

_FOREIGN = {"rationale_from": "thought", "decoder": "soft-prompt", "stop_gradient": False}
"""Options of :class:`TTELoss` about think tokens, as they are when they are left out."""


@dataclass(frozen=True)
class Writing:
    """How PLUME is taught to write on after its latent steps; in the place of :class:`Thinking`."""

    def decodes(self, _input_ids: Tensor, rationale_ids: Tensor) -> Tensor:
        """True for rows that write anything (B, S); (B,)."""
        return (rationale_ids >= 0).any(1)

    @contextmanager
    def during(self, transformer: nn.Module, rationale_ids: Tensor | None) -> Iterator[None]:
        """Within, ``transformer`` reads ``rationale_ids`` (B, S) after its latent steps and adds their ``rationale_nll`` (B,).

        The first of them is predicted by the last latent state.

        Raises:
            InputError: Under gradient checkpointing.
        """
        module = cast("Any", transformer)
        if any(layer.training and layer.gradient_checkpointing for layer in module.model.language_model.layers):
            raise InputError(
                "PLUME thinks over keys and values that gradient checkpointing throws away; turn it off, and set "
                "loss.mini_batch_size to what memory allows."
            )
        if rationale_ids is None:
            yield
            return

        def give(_module: nn.Module, args: tuple[dict[str, Any]]) -> None:
            args[0]["written_ids"] = rationale_ids

        def score(_module: nn.Module, _args: Any, features: dict[str, Any]) -> None:
            states = features["suffix_states"][:, :-1]  # (B, S, D)
            features["rationale_nll"] = token_nll(states, rationale_ids, output_matrix(module.model))

        hooks = [module.register_forward_pre_hook(give), module.register_forward_hook(score)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


class PlumeLoss(TTELoss):
    """InfoNCE after the thought and before it, the NLL of what is written after it, and load balance of the experts.

    Features of a column are those of :class:`TTELoss`, but ``rationale_ids`` are (B, phases, S) int64, padded on the right with
    -100: what is written, ``<gen_emb>`` included, in each phase of the curriculum. The phase is that of ``progress``, which
    the trainer tells through ``callbacks``. Every row of a column that has them writes something, if only the end.

    Large batches go through GradCache like those of :class:`TTELoss`: anchor states and routing ride with the embeddings,
    so that negatives and balance are those of the whole batch, while memory is that of a mini-batch.

    ``metrics`` holds, after each call in which there were latent steps, the router's entropy, the share of the choices that
    fell on the busiest expert (1/N where the load is even), and the number of steps.

    Args:
        model: Of the method ``plume``.
        curriculum: Phases; it has to end in as many steps as the model takes.
        rationale_weight: Of the generation part; 0 leaves it out, and what should be written is read all the same.
        disc_weight: Of InfoNCE between the states at ``<disc_emb>``, in front of the thought.
        balance_weight: Of the load balance; 0 leaves it out.
        balance: ``batch`` asks for experts that are equally busy over the batch. ``step`` pulls the routing of each step
            towards evenness, against which no expert can specialise; the original does so.
        **options: As for :class:`TTELoss`, but for those about think tokens.

    Raises:
        InputError: An option that is out of range or not for PLUME, or a model of another method.
    """

    PARTS = ("contrastive", "disc", "rationale", "balance")
    METRICS = ("routing_entropy", "largest_load", "latent_steps")

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        curriculum: Curriculum | None = None,
        rationale_weight: float = 1.0,
        disc_weight: float = 1.0,
        balance_weight: float = 0.1,
        balance: Balance = "batch",
        **options: Any,
    ) -> None:
        if foreign := [name for name, value in _FOREIGN.items() if options.get(name, value) != value]:
            raise InputError(
                f"{' and '.join(foreign)} are about think tokens, which PLUME has none of; leave them out."
            )
        if min(rationale_weight, disc_weight, balance_weight) < 0:
            raise InputError(
                f"rationale_weight is {rationale_weight}, disc_weight {disc_weight} and balance_weight {balance_weight}; "
                "give 0 to leave a part out, or a positive number."
            )
        if balance not in get_args(Balance):
            raise InputError(f"balance is {balance!r}; it can be {' or '.join(map(repr, get_args(Balance)))}.")
        self.curriculum = curriculum or Curriculum()
        _check_model(model, self.curriculum)
        super().__init__(model, rationale_weight=0, **options)  # there are no think tokens to decode it from
        self.rationale_weight = rationale_weight
        self.disc_weight, self.balance_weight, self.balance = disc_weight, balance_weight, balance
        first = cast("PlumeTransformer", model[0])
        self.width, self.chosen = first.get_embedding_dimension(), first.options.active_experts
        self.routes = first.options.experts > 0
        if balance_weight and not self.routes:
            raise InputError(
                f"balance_weight is {balance_weight}, but this PLUME has no adapter, and so no experts to balance; give 0."
            )
        self.ROW_EXTRAS = 1 + self.width + (RoutingSummary.packed_size(first.options.experts) if self.routes else 0)
        self.progress = 0.0
        self.callbacks = (_Follow(self),)

    @property
    def _thinking(self) -> Writing:  # type: ignore[override]  # both have the two methods that are used
        return Writing()

    @property
    def _reads_rationales(self) -> bool:
        return True

    def get_config_dict(self) -> dict[str, Any]:
        """The options, for the model card."""
        own = ("curriculum", "disc_weight", "balance_weight", "balance")
        return super().get_config_dict() | {name: getattr(self, name) for name in own}

    def forward(  # type: ignore[override]
        self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The weighted parts ``contrastive``, ``disc``, ``rationale`` and ``balance``, as :class:`TTELoss` gives its own."""
        index = self.curriculum.phase_at(self.progress)
        latents = self.curriculum.phases[index].latents
        columns = []
        for column in sentence_features:
            given = {**column, "think_budget": torch.full_like(column["input_ids"][:, 0], latents)}  # (B,)
            if "rationale_ids" in column:
                ids = column["rationale_ids"][:, index]  # (B, S)
                given["rationale_ids"] = ids[:, : int((ids >= 0).sum(1).max())]
            columns.append(given)
        parts = super().forward(columns)
        self.metrics["latent_steps"] = torch.full_like(self.log_scale.detach(), latents)
        return parts

    def _row_extras(self, features: dict[str, Any]) -> list[Tensor]:
        """Besides the NLL, the state at ``<disc_emb>`` (mini-batch, D), and the routing, packed."""
        facts = [*super()._row_extras(features), *features["anchor_state"].float().unbind(1)]
        if self.routes:
            facts += RoutingSummary.of(features["routing"].float(), self.chosen).packed.unbind(1)
        return facts

    def _parts(self, vectors: list[Tensor], facts: Tensor, batch: Batch) -> dict[str, Tensor]:
        parts = super()._parts(vectors, facts, batch)
        gather = self.gather_across_devices and dist.is_initialized()
        if self.disc_weight:
            processes = dist.get_world_size() if gather else 1
            anchors = facts[:, 1 : 1 + self.width].split([len(each) // processes for each in vectors])  # (B, D) each
            gathered = [all_gather_with_grad(each) for each in anchors] if gather else list(anchors)
            parts["disc"] = self.disc_weight * self._contrastive(gathered, batch.candidates, batch.log_scale)
        if not self.routes:
            self.metrics = {}
            return parts
        mean = facts[:, 1 + self.width :].mean(0, keepdim=True)  # (1, packed)
        if gather:
            mean = all_gather_with_grad(mean).mean(0, keepdim=True)
        routing = RoutingSummary.unpacked(mean)
        if self.balance_weight:
            uneven = {
                "batch": batch_balance(routing.probabilities[0], routing.loads[0]),
                "step": routing.deviation[0],
            }
            parts["balance"] = self.balance_weight * uneven[self.balance]
        self.metrics = {"routing_entropy": routing.entropy[0].detach(), "largest_load": routing.loads.max().detach()}
        return parts


def _check_model(model: SentenceTransformer, curriculum: Curriculum) -> None:
    first = model[0]
    if not isinstance(first, PlumeTransformer) or first.options.readout != "gen":
        raise InputError("The model is no PLUME that embeds after its thought; build one with the method plume.")
    if first.max_budget != curriculum.steps:
        raise InputError(
            f"The curriculum ends in {curriculum.steps} latent steps (segments times latents_per_segment), but the model "
            f"takes {first.max_budget}; make them equal."
        )


class _Follow(TrainerCallback):
    """Tells a loss how far training has come, and has Adam begin anew with each ratio, where the curriculum says so."""

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
