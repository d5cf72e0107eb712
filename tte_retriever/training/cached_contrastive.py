"""The contrastive loss that every method is trained with: candidates are masked, and batches of any size fit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from accelerate.utils import extract_model_from_parallel
from sentence_transformers.base.losses import CachedLossMixin
from sentence_transformers.base.losses.gradcache import RandContext, _create_minibatch
from sentence_transformers.util import all_gather, all_gather_with_grad
from torch import nn

from tte_retriever.errors import InputError
from tte_retriever.training.contrastive import Candidates, batch_candidates, matryoshka_info_nce
from tte_retriever.training.temperature import MAX_SCALE, TemperatureMixin, log_scale

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Transformer
    from torch import Tensor
    from transformers import TrainerCallback

    from tte_retriever.training.rationale import RationalePass

_LOSS_FEATURES = ("rationale_ids", "content_id", "answer_ids")
"""Features that the loss reads and the model does not."""


@dataclass
class Batch:
    """What is known of a batch beside the embeddings.

    Attributes:
        candidates: Over all processes if they gather.
        rationales: Number of rows whose rationale is decoded, the mean over processes if they gather.  () float32
        log_scale: The loss's own, or its stand-in while GradCache runs its backward pass inside ``forward``.
        parts: The parts of the loss, once they are computed.
    """

    candidates: Candidates
    rationales: Tensor
    log_scale: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


def _drop_model_state(_loss: nn.Module, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    """The model is saved with the model; the state of a loss is its own."""
    for key in [key for key in state if key.startswith(f"{prefix}model.")]:
        del state[key]


class CachedContrastiveLoss(TemperatureMixin, CachedLossMixin, nn.Module, ABC):
    """Masked InfoNCE over a batch of any size, and the NLL of rationales; the base of each method's loss.

    A method adds its :attr:`rationale_pass`, which decodes rationales inside the model's forward pass, and may add values
    of each row (:meth:`_row_extras`) and parts of the loss (:meth:`_parts`). The values of a row travel through GradCache
    together with its embedding, so they carry gradients.

    Inputs are one dict of features per column: the anchor, its positive, hard negatives. Beside what the model takes, a
    column may have:

    * ``rationale_ids`` (B, R) int64: padded with -100; a row of only -100 has no rationale.
    * ``content_id`` (B,) int64, in all columns or none: the identity of each item. Equal candidates count once. A candidate
      that is the positive of another row with the same anchor is masked as a false negative. Without it all items differ.
    * ``answer_ids`` (B, M) int64, in the anchor column only, padded with -1: identities of everything that is known to
      answer the anchor; these are masked as false negatives, too.

    A batch of up to ``mini_batch_size`` rows passes through the model once, a larger one through GradCache (Gao et al.,
    arXiv 2101.06983), with the same gradients. (Under a DDP that looks for unused parameters every batch takes GradCache,
    because such a DDP allows one forward pass per backward pass.)

    Args:
        model: What is trained.
        contrastive_weight: Of the contrastive part; 0 leaves it out. May be set between steps.
        rationale_weight: Of the generation part; 0 leaves it out. May be set between steps.
        matryoshka_dims: Leading dimensions at which the contrastive part is computed and averaged (Kusupati et al.,
            arXiv 2205.13147); ``None`` is all of them. Only what is listed is trained.
        symmetric: Whether to add the direction from the positives to the queries.
        temperature: Where it starts.
        learn_temperature: Whether it is trained.
        mini_batch_size: Rows in one pass through the model.
        gather_across_devices: Whether candidates of all processes are negatives and means are taken over all of them.

    Raises:
        InputError: An option is out of range.
    """

    # fmt: off
    OPTIONS: tuple[str, ...] = (
        "contrastive_weight", "rationale_weight", "matryoshka_dims", "symmetric", "temperature", "learn_temperature",
        "mini_batch_size", "gather_across_devices",
    )
    """Names of the options, which are attributes."""
    # fmt: on

    GENERATION = "rationale"
    """Name of the generation part."""

    PARTS: tuple[str, ...] = ("contrastive", GENERATION)
    """What :meth:`forward` may return."""

    METRICS: tuple[str, ...] = ()
    """What ``metrics`` may hold after a call: values that are logged and do not add to the loss."""

    callbacks: Sequence[TrainerCallback] = ()
    """What the trainer has to call while it trains with this loss."""

    def __init__(
        self,
        model: SentenceTransformer,
        *,
        contrastive_weight: float = 1.0,
        rationale_weight: float = 1.0,
        matryoshka_dims: Sequence[int] | None = None,
        symmetric: bool = False,
        temperature: float = 0.07,
        learn_temperature: bool = True,
        mini_batch_size: int = 32,
        gather_across_devices: bool = False,
    ) -> None:
        check_weights(contrastive_weight=contrastive_weight, rationale_weight=rationale_weight)
        if mini_batch_size < 1:
            raise InputError(f"mini_batch_size is {mini_batch_size}; give a positive number of rows.")
        largest = model.get_embedding_dimension() or 0
        dims = None if matryoshka_dims is None else tuple(matryoshka_dims)
        if dims is not None and not (dims and all(1 <= each <= largest for each in dims)):
            raise InputError(f"matryoshka_dims are {dims}; give one or more from 1 to {largest}, or None.")
        super().__init__()
        self.register_state_dict_post_hook(_drop_model_state)
        self.model = model
        self.contrastive_weight = contrastive_weight
        self.rationale_weight = rationale_weight
        self.matryoshka_dims = dims
        self.symmetric = symmetric
        self.log_scale = nn.Parameter(log_scale(temperature), requires_grad=learn_temperature)
        self.mini_batch_size = mini_batch_size
        self.gather_across_devices = gather_across_devices
        self.metrics: dict[str, Tensor] = {}
        self._extras_widths: dict[str, int] = {}  # of the row extras, in the order in which they follow the embedding

    @property
    @abstractmethod
    def rationale_pass(self) -> RationalePass:
        """How the model decodes rationales in training."""

    @property
    def reads_rationales(self) -> bool:
        """Whether the model has to read the rationales, even if ``rationale_weight`` is 0."""
        return True

    @property
    def plain_model(self) -> SentenceTransformer:
        """The model without the wrappers of DDP and ``torch.compile``."""
        plain: SentenceTransformer = extract_model_from_parallel(self.model, keep_torch_compile=False)
        return plain

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load what ``state_dict`` returned: the loss's own state, such as the temperature.

        Raises:
            InputError: It has other keys.
        """
        if state_dict.keys() != (own := self.state_dict()).keys():
            raise InputError(f"The state of a {type(self).__name__} is {sorted(own)}; {sorted(state_dict)} was given.")
        return super().load_state_dict(state_dict, strict=False, assign=assign)

    def get_config_dict(self) -> dict[str, Any]:
        """The options, for the model card."""
        return {name: getattr(self, name) for name in self.OPTIONS}

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None) -> dict[str, Tensor]:
        """The weighted parts of the loss.

        Args:
            sentence_features: Features of the anchor, the positive and the hard negatives.
            labels: Not used: the positive of a row is its second column.

        Returns:
            Some of :attr:`PARTS`, each () float32. The loss is their sum.

        Raises:
            InputError: The columns lack what the weights ask for.
        """
        columns = [dict(column) for column in sentence_features]
        self._check(columns)
        self._batch = batch = self._describe(columns)
        if len(columns[0]["input_ids"]) <= self.mini_batch_size and not self._allows_one_forward:
            reps = [[self.embed_minibatch(column, 0, self.mini_batch_size, True, False)[0]] for column in columns]
            return self._split(reps, batch)
        batch.log_scale = self.log_scale.detach().requires_grad_(self.log_scale.requires_grad)
        total = self.forward_cached(columns)
        # What is added is zero, and carries the gradients of the total.
        name, value = next(iter(batch.parts.items()))
        value = value + (total - total.detach())
        if batch.log_scale.grad is not None:
            value = value + batch.log_scale.grad * (self.log_scale - self.log_scale.detach())
        return {**batch.parts, name: value}

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Tensor | None = None, *, with_backward: bool = False
    ) -> Tensor:
        """The sum of the parts of the batch that :meth:`forward` has described; () float32.

        Args:
            reps: What :meth:`embed_minibatch` returned for each mini-batch of each column.
            labels: Not used.
            with_backward: Whether to run the backward pass down to ``reps``.
        """
        parts = self._split(reps, self._batch)
        total = torch.stack(list(parts.values())).sum()
        if with_backward:
            total.backward()
        self._batch.parts = {name: part.detach() for name, part in parts.items()}
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
        """Embeddings and, as further columns, the row extras; (mini-batch, E + extras) float32."""
        inputs = {key: value for key, value in sentence_feature.items() if key not in _LOSS_FEATURES}
        features = _create_minibatch(inputs, begin, end)
        rationale_ids = None
        if self.reads_rationales and "rationale_ids" in sentence_feature:
            rationale_ids = sentence_feature["rationale_ids"][begin:end]
        with random_state or nullcontext(), nullcontext() if with_grad else torch.no_grad():
            state = RandContext(*features.values()) if copy_random_state else None
            with self.rationale_pass.attached_to(cast("Transformer", self.plain_model[0]), rationale_ids):
                out = self.model(features)
            extras = self._row_extras(out)
        self._extras_widths = {name: value.shape[1] for name, value in extras.items()}
        return torch.cat([out["sentence_embedding"].float(), *extras.values()], dim=1), state

    def _row_extras(self, features: dict[str, Any]) -> dict[str, Tensor]:
        """What the parts need of each row beside its embedding; (mini-batch, n) float32 each."""
        nll = features.get("rationale_nll", features["sentence_embedding"].new_zeros(len(features["input_ids"])))
        return {"nll": nll[:, None]}

    def _check(self, columns: list[dict[str, Any]]) -> None:
        if not self.contrastive_weight and not self.rationale_weight:
            raise InputError("contrastive_weight and rationale_weight are both 0; set one of them.")
        if self.contrastive_weight and len(columns) < 2:
            raise InputError(f"The contrastive part takes an anchor and a positive column; {len(columns)} was given.")
        if self.rationale_weight and not any("rationale_ids" in column for column in columns):
            raise InputError(
                "No column has rationales (rationale_ids), but rationale_weight is not 0; give the data a "
                "'<column>_rationale' column, or set rationale_weight=0."
            )
        identified = ["content_id" in column for column in columns]
        if any(identified) != all(identified) or ("answer_ids" in columns[0] and not all(identified)):
            raise InputError("content_id is needed in every column or in none, and answer_ids needs it.")

    @property
    def _allows_one_forward(self) -> bool:
        """Whether DDP looks for unused parameters after each forward pass, and so allows one per backward pass."""
        return getattr(self.model, "find_unused_parameters", False)

    @property
    def _gathers(self) -> bool:
        return self.gather_across_devices and dist.is_initialized()

    def _over_processes(self, count: Tensor) -> Tensor:
        """The mean of a count over processes, if they gather."""
        return mean_over_processes(count) if self._gathers else count

    def _describe(self, columns: list[dict[str, Any]]) -> Batch:
        count = columns[0]["input_ids"].new_zeros(())
        for column in columns:
            if "rationale_ids" in column:
                count = count + self.rationale_pass.decodable(column["input_ids"], column["rationale_ids"]).sum()
        candidates = batch_candidates(columns, gather=self._gathers)
        return Batch(candidates, self._over_processes(count.float()), self.log_scale)

    def _split(self, reps: list[list[Tensor]], batch: Batch) -> dict[str, Tensor]:
        """The parts, from what :meth:`embed_minibatch` returned for each mini-batch of each column."""
        columns = [torch.cat(mini_batches) for mini_batches in reps]  # (B, E + extras) each
        widths = self._extras_widths
        width = columns[0].shape[1] - sum(widths.values())
        vectors = [each[:, :width] for each in columns]
        values = torch.cat(columns)[:, width:].split(list(widths.values()), dim=1)
        if self.gather_across_devices:
            vectors = [all_gather_with_grad(each) for each in vectors]
        return self._parts(vectors, dict(zip(widths, values, strict=True)), batch)

    def _parts(self, vectors: list[Tensor], extras: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """The weighted parts.

        Args:
            vectors: Embeddings of each column, of all processes if they gather.  (B, E)
            extras: What :meth:`_row_extras` returned, for the rows of all columns of this process.  (rows, n) each
            batch: What else is known.
        """
        parts = {}
        if self.contrastive_weight:
            parts["contrastive"] = self.contrastive_weight * self._contrastive(vectors, batch)
        if self.rationale_weight:
            nll = extras["nll"].sum() / batch.rationales.clamp(min=1e-9)
            # A batch without any rationale still needs a gradient, of zero, in every parameter.
            parts[self.GENERATION] = self.rationale_weight * nll + 0.0 * torch.cat(vectors).sum()
        return parts

    def _contrastive(self, vectors: list[Tensor], batch: Batch) -> Tensor:
        """InfoNCE of one embedding of each row; ``vectors`` as for :meth:`_parts`."""
        scale = batch.log_scale.exp().clamp(max=MAX_SCALE)
        if scale.requires_grad:
            scale.register_hook(mean_over_processes)  # DDP averages the model's gradients alone
        return matryoshka_info_nce(
            vectors, batch.candidates, scale, dims=self.matryoshka_dims, symmetric=self.symmetric
        )

    def _contrastive_of_extra(self, values: Tensor, columns: int, batch: Batch) -> Tensor:
        """InfoNCE of another embedding of each row, which is one of the row extras; (rows, D)."""
        vectors = list(values.chunk(columns))  # (B, D) each
        if self.gather_across_devices:
            vectors = [all_gather_with_grad(each) for each in vectors]
        return self._contrastive(vectors, batch)


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a scalar over processes, or the scalar itself if there is one process."""
    return all_gather(value[None]).mean(0) if dist.is_initialized() else value


def check_weights(**weights: float) -> None:
    """Raise unless every weight is 0 or above.

    Raises:
        InputError: A weight is negative.
    """
    for name, weight in weights.items():
        if weight < 0:
            raise InputError(f"{name} is {weight}; give 0 to leave the part out, or a positive number.")
