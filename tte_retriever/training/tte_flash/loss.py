"""The loss of TTE-Flash: a contrastive part on the embeddings, a generation part on the think tokens."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast, get_args

import torch
import torch.distributed as dist
from accelerate.utils import extract_model_from_parallel
from sentence_transformers.base.losses.gradcache import RandContext, _create_minibatch
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
from sentence_transformers.util import all_gather, all_gather_with_grad
from sentence_transformers.util.distributed import all_gather_padded
from torch import nn
from torch.nn import functional as F

from tte_retriever.errors import InputError
from tte_retriever.tokens import thought_vocabulary
from tte_retriever.training.contrastive import Candidates, distinct_candidates, masked_info_nce
from tte_retriever.training.tte_flash.thinking import Decoder, RationaleFrom, Thinking

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sentence_transformers import SentenceTransformer
    from torch import Tensor
    from transformers import TrainerCallback

_OWN_FEATURES = ("rationale_ids", "content_id", "answer_ids")
_MAX_SCALE = 100.0  # as in CLIP: beyond it the temperature only sharpens noise


@dataclass
class Batch:
    """What the loss has to know beside the embeddings.

    Attributes:
        candidates: What is a candidate and what is no negative, over all processes if they gather.
        rationales: Number of rows with a rationale and a thought, the mean over processes if they gather.
        log_scale: The loss's own; for GradCache, which goes backward inside the forward pass, a stand-in.
        parts: The loss in parts, written down when they are computed.
    """

    candidates: Candidates
    rationales: Tensor
    log_scale: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


class TTELoss(CachedMultipleNegativesRankingLoss):
    """InfoNCE over a batch of any size, and the NLL of rationales that are decoded from the think tokens.

    Features of a column may carry, beside what the model takes:

    * ``rationale_ids`` (B, R) int64: its rationales, each ended by the end-of-turn token, padded with -100; a row of only -100
      has none. NLL is the mean over a rationale's tokens, then over all rows of all columns that have one and, unless the
      query is decoded as well, at least one think token.
    * ``content_id`` (B,) int64, in all columns or none: the identity of the item. Equal candidates count once, and a candidate
      that is the positive of any row with the same anchor is no negative. Without it every item is its own.
    * ``answer_ids`` (B, M) int64, the anchor column only, padded with -1: everything that is known to answer the anchor,
      which is no negative either.

    The first column is the anchor, the second its positive, all others are hard negatives. A batch of up to
    ``mini_batch_size`` rows goes through the model once, larger ones through GradCache: the gradients are the same. (A
    model whose DDP looks for unused parameters always takes GradCache: such a DDP allows one forward per backward.)

    Do not wrap this in ``MatryoshkaLoss``, which would destroy the generation part; use ``matryoshka_dims``.

    Args:
        model: A checkpoint with an embed token, and with think tokens where the options need them.
        contrastive_weight: Of the contrastive part. 0 leaves it out: generation warm-up. May be set between steps.
        rationale_weight: Of the generation part. 0 leaves it out, and rationales are not looked at. May be set too.
        rationale_from: What the decoder sees: the think tokens alone, or everything in front of the embed token, for which
            a model without think tokens will do.
        decoder: ``soft-prompt`` puts their last hidden states in front of the rationale; ``kv`` lets it attend to their
            keys and values in every layer, which gradient checkpointing does not keep.
        stop_gradient: Whether the contrastive part reads the think states as constants: in every layer its gradient
            stops at the hidden states of the think tokens, so that it reaches neither them nor their rows, only the
            weights that read them. Costs a second forward pass.
        matryoshka_dims: Leading dimensions at which the contrastive part is computed and averaged; ``None`` is all of
            them. Only what is listed is trained.
        symmetric: Whether every positive has to find its anchor as well.
        temperature: Where it starts.
        learn_temperature: Whether it is trained.
        mini_batch_size: Rows in one pass through the model.
        gather_across_devices: Whether candidates of all processes are negatives, and means are taken over all of them.

    Raises:
        InputError: An option that is out of range, or a model without the think tokens that it needs.
    """

    GENERATION = "rationale"
    """Name of the generation part."""

    PARTS: tuple[str, ...] = ("contrastive", GENERATION)
    """What :meth:`forward` may return."""

    ROW_EXTRAS = 1
    """How many values beside its embedding a row is known by; :meth:`_row_extras` gives them."""

    callbacks: Sequence[TrainerCallback] = ()
    """What the trainer has to call while it trains with this loss."""

    METRICS: tuple[str, ...] = ()
    """What ``metrics`` may hold after a call: values that are logged beside the parts and are no part of the loss."""

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        contrastive_weight: float = 1.0,
        rationale_weight: float = 1.0,
        rationale_from: RationaleFrom = "thought",
        decoder: Decoder = "soft-prompt",
        stop_gradient: bool = False,
        matryoshka_dims: Sequence[int] | None = None,
        symmetric: bool = False,
        temperature: float = 0.07,
        learn_temperature: bool = True,
        mini_batch_size: int = 32,
        gather_across_devices: bool = False,
    ) -> None:
        for name, value, allowed in (
            ("rationale_from", rationale_from, get_args(RationaleFrom)),
            ("decoder", decoder, get_args(Decoder)),
        ):
            if value not in allowed:
                raise InputError(f"{name} is {value!r}; it can be {' or '.join(map(repr, allowed))}.")
        for name, number in (("contrastive_weight", contrastive_weight), ("rationale_weight", rationale_weight)):
            if number < 0:
                raise InputError(f"{name} is {number}; give 0 to leave the part out, or a positive number.")
        if temperature < 1 / _MAX_SCALE:
            raise InputError(f"temperature is {temperature}; give {1 / _MAX_SCALE} or more.")
        if mini_batch_size < 1:
            raise InputError(f"mini_batch_size is {mini_batch_size}; give a positive number of rows.")
        largest = cast("int", model.get_embedding_dimension())
        dims = None if matryoshka_dims is None else tuple(matryoshka_dims)
        if dims is not None and not (dims and all(1 <= each <= largest for each in dims)):
            raise InputError(f"matryoshka_dims are {dims}; give one or more from 1 to {largest}, or None.")
        thought = thought_vocabulary(cast("Any", model.tokenizer))
        decodes_thought = rationale_weight > 0 and rationale_from == "thought"
        if (decodes_thought or stop_gradient) and not thought.think_ids:
            raise InputError(
                "This model has no think tokens to decode a rationale from; set rationale_weight=0 and leave out "
                "stop_gradient, have rationale_from='query+thought' decode it from the query, or build a checkpoint with "
                "think tokens."
            )
        super().__init__(
            model,
            scale=1 / temperature,
            mini_batch_size=mini_batch_size,
            gather_across_devices=gather_across_devices,
        )
        self.contrastive_weight = contrastive_weight
        self.rationale_weight = rationale_weight
        self.rationale_from = rationale_from
        self.decoder = decoder
        self.stop_gradient = stop_gradient
        self.matryoshka_dims = dims
        self.symmetric = symmetric
        self.thought = thought
        self.log_scale = nn.Parameter(torch.tensor(1 / temperature).log(), requires_grad=learn_temperature)
        self.metrics: dict[str, Tensor] = {}

    @property
    def _thinking(self) -> Thinking:
        stop = self.stop_gradient and self.contrastive_weight > 0
        return Thinking(self.thought, self.rationale_from, self.decoder, stop)

    @property
    def _reads_rationales(self) -> bool:
        """Whether a pass through the model needs them."""
        return self.rationale_weight > 0

    @property
    def temperature(self) -> float:
        """As it is now."""
        return 1 / self.log_scale.exp().clamp(max=_MAX_SCALE).item()

    @property
    def scale(self) -> float:
        """The inverse of the temperature."""
        return 1 / self.temperature

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The loss's own state, such as the temperature; the model's is saved with the model."""
        prefix = kwargs.get("prefix", "")
        own = {f"{prefix}{name}" for name, _ in self.named_parameters() if not name.startswith("model.")}
        return {key: value for key, value in super().state_dict(*args, **kwargs).items() if key in own}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take back what :meth:`state_dict` gave.

        Raises:
            InputError: If it holds anything else.
        """
        if state_dict.keys() != (own := self.state_dict()).keys():
            raise InputError(
                f"The state of this {type(self).__name__} is {sorted(own)}, but {sorted(state_dict)} was given."
            )
        super().load_state_dict(state_dict, strict=False, assign=assign)

    def get_config_dict(self) -> dict[str, Any]:
        """The options, for the model card."""
        return {
            "contrastive_weight": self.contrastive_weight,
            "rationale_weight": self.rationale_weight,
            "rationale_from": self.rationale_from,
            "decoder": self.decoder,
            "stop_gradient": self.stop_gradient,
            "matryoshka_dims": self.matryoshka_dims,
            "symmetric": self.symmetric,
            "temperature": self.temperature,
            "learn_temperature": self.log_scale.requires_grad,
            "mini_batch_size": self.mini_batch_size,
            "gather_across_devices": self.gather_across_devices,
        }

    def forward(  # type: ignore[override]  # the trainer takes a dict of parts as well
        self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The weighted parts, some of :attr:`PARTS`; the loss is their sum.

        Args:
            sentence_features: Features of the anchor, the positive and the hard negatives.
            labels: Not used: the positive of a row is its second column.

        Raises:
            InputError: If columns lack what the weights ask for.
        """
        columns = [dict(column) for column in sentence_features]
        self._check(columns)
        batch = self._batch(columns)
        if len(columns[0]["input_ids"]) <= self.mini_batch_size and not _one_forward(self.model):
            reps = [[self.embed_minibatch(column, 0, self.mini_batch_size, True, False)[0]] for column in columns]
            return self._split(reps, batch)
        batch.log_scale = self.log_scale.detach().requires_grad_(self.log_scale.requires_grad)
        total = self.forward_cached(columns, cast("Any", batch))
        # What is added is zero, and carries the gradients of the total.
        name, value = next(iter(batch.parts.items()))
        value = value + (total - total.detach())
        if batch.log_scale.grad is not None:
            value = value + batch.log_scale.grad * (self.log_scale - self.log_scale.detach())
        return {**batch.parts, name: value}

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Tensor | None = None, *, with_backward: bool = False
    ) -> Tensor:
        """The sum of the parts, which are left in the batch: ``forward`` hands it through in place of labels."""
        batch = cast("Batch", labels)
        parts = self._split(reps, batch)
        total = torch.stack(list(parts.values())).sum()
        if with_backward:
            total.backward()
        batch.parts = {name: part.detach() for name, part in parts.items()}
        return total.detach()

    def embed_minibatch(
        self,
        sentence_feature: dict[str, Any],
        begin: int,
        end: int,
        with_grad: bool,
        copy_random_state: bool,
        random_state: RandContext | None = None,
    ) -> tuple[Tensor, RandContext | None]:
        """Embeddings and, as further columns, what :meth:`_row_extras` says; (mini-batch, E + ROW_EXTRAS)."""
        inputs = {key: value for key, value in sentence_feature.items() if key not in _OWN_FEATURES}
        features = _create_minibatch(inputs, begin, end)
        rationale_ids = None
        if self._reads_rationales and "rationale_ids" in sentence_feature:
            rationale_ids = sentence_feature["rationale_ids"][begin:end]
        with random_state or nullcontext(), nullcontext() if with_grad else torch.no_grad():
            state = RandContext(*features.values()) if copy_random_state else None
            transformer = extract_model_from_parallel(self.model, keep_torch_compile=False)[0]
            with self._thinking.during(transformer, rationale_ids):
                out = self.model(features)
            columns = [out["sentence_embedding"].float(), *(each[:, None] for each in self._row_extras(out))]
        return torch.cat(columns, dim=1), state

    def _row_extras(self, features: dict[str, Any]) -> list[Tensor]:
        """What the parts need of every row beside its embedding: the NLL of its rationale first; (mini-batch,) each."""
        return [features.get("rationale_nll", features["sentence_embedding"].new_zeros(len(features["input_ids"])))]

    def _check(self, columns: list[dict[str, Any]]) -> None:
        if not self.contrastive_weight and not self.rationale_weight:
            raise InputError("contrastive_weight and rationale_weight are both 0; set one of them.")
        if self.contrastive_weight and len(columns) < 2:
            raise InputError(
                f"The contrastive part takes an anchor and a positive column, but {len(columns)} was given."
            )
        if self.rationale_weight and not any("rationale_ids" in column for column in columns):
            raise InputError(
                "No column carries rationales (rationale_ids), but rationale_weight is not 0; give the data a "
                "'<column>_rationale' column, or set rationale_weight=0."
            )
        identified = ["content_id" in column for column in columns]
        if any(identified) != all(identified) or ("answer_ids" in columns[0] and not all(identified)):
            raise InputError("content_id is needed in every column or in none, and answer_ids needs it.")

    def _over_processes(self, count: Tensor) -> Tensor:
        """The mean of a count over processes, if they gather."""
        return all_gather(count[None]).mean() if self.gather_across_devices and dist.is_initialized() else count

    def _batch(self, columns: list[dict[str, Any]]) -> Batch:
        gather = self.gather_across_devices and dist.is_initialized()
        anchor = columns[0]
        rows, device = len(anchor["input_ids"]), anchor["input_ids"].device
        decoded = [
            self._thinking.decodes(column["input_ids"], column["rationale_ids"])
            for column in columns
            if "rationale_ids" in column
        ]
        count = (
            torch.stack([each.sum() for each in decoded]).sum().float() if decoded else torch.zeros((), device=device)
        )
        count = self._over_processes(count)
        if gather:
            rows *= dist.get_world_size()
        answers = anchor.get("answer_ids")
        if "content_id" in anchor:
            ids = [all_gather(column["content_id"]) if gather else column["content_id"] for column in columns]
            if answers is not None and gather:  # each process pads to a width of its own
                padded, known = all_gather_padded(answers[..., None], answers != -1)
                answers = padded[..., 0].masked_fill(~known, -1)
        else:
            ids = list(torch.arange(rows * len(columns), device=device).split(rows))
        candidates = distinct_candidates(ids[0], torch.cat(ids[1:] or ids), answers)
        return Batch(candidates, count, self.log_scale)

    def _split(self, reps: list[list[Tensor]], batch: Batch) -> dict[str, Tensor]:
        """The parts, of what :meth:`embed_minibatch` gave for every mini-batch of every column."""
        columns = [torch.cat(mini_batches) for mini_batches in reps]  # (B, E + columns) each
        width = columns[0].shape[1] - self.ROW_EXTRAS
        vectors, facts = [each[:, :width] for each in columns], torch.cat(columns)[:, width:]
        if self.gather_across_devices:
            vectors = [all_gather_with_grad(each) for each in vectors]
        return self._parts(vectors, facts, batch)

    def _parts(self, vectors: list[Tensor], facts: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The parts.

        Args:
            vectors: Embeddings of each column, of all processes if they gather.  (B, E)
            facts: Of the rows of all columns, of this process.  (rows, ROW_EXTRAS)
            batch: What else is known.
        """
        parts = {}
        if self.contrastive_weight:
            parts["contrastive"] = self.contrastive_weight * self._contrastive(
                vectors, batch.candidates, batch.log_scale
            )
        if self.rationale_weight:
            nll = facts[:, 0].sum() / batch.rationales.clamp(min=1e-9)
            # A batch without any rationale still needs a gradient, of zero, in every parameter.
            parts[self.GENERATION] = self.rationale_weight * nll + 0.0 * torch.cat(vectors).sum()
        return parts

    def _contrastive(self, vectors: list[Tensor], among: Candidates, log_scale: Tensor) -> Tensor:
        queries, candidates = vectors[0], torch.cat(vectors[1:])[among.distinct]
        scale = log_scale.exp().clamp(max=_MAX_SCALE)
        if scale.requires_grad:
            scale.register_hook(_mean_over_processes)
        losses = []
        for dimension in self.matryoshka_dims or (queries.shape[1],):
            query, candidate = (F.normalize(each[:, :dimension], dim=1) for each in (queries, candidates))
            losses.append(
                masked_info_nce(query, candidate, among.positives, among.excluded, scale, symmetric=self.symmetric)
            )
        return torch.stack(losses).mean()


def _one_forward(model: nn.Module) -> bool:
    """Whether DDP looks for unused parameters after each forward, and so takes a single one per backward."""
    return bool(getattr(model, "find_unused_parameters", False))


def _mean_over_processes(gradient: Tensor) -> Tensor:
    """DDP averages the model's gradients; the loss's own parameters are not in it."""
    return all_gather(gradient[None]).mean(0) if dist.is_initialized() else gradient
