"""The SentenceTransformer trainer, with checkpoints of what is trained and a log per data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformerTrainer
from transformers import TrainerCallback, TrainerState

from tte_retriever.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tte_retriever.training.cached_contrastive import CachedContrastiveLoss

TRAINED = "trained.safetensors"
"""File of a trainer checkpoint: the trained weights."""

_STATE = "trainer_state.json"  # the last file that is written to a checkpoint


class StageTrainer(SentenceTransformerTrainer):
    """The stock trainer with four differences, all in documented or long-standing hooks.

    * A checkpoint has the trained weights, adapters or everything, *and* the loss's own parameters. The stock trainer
      optimises a learned temperature but does not save it.
    * Each part of the loss, and each of its metrics, is logged per data set, as the mean over the batches that had it. The
      stock trainer divides by all steps.
    * Under DDP, gradients of the loss's own parameters are averaged over processes, too.
    * Model cards have no training rows.

    Attributes:
        sizes: Number of rows of each data set, by name.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sizes = {name: len(dataset) for name, dataset in cast("Any", self.train_dataset).items()}
        prefixes = {name: f"{name}_" if len(self.sizes) > 1 else "" for name in self.sizes}
        parts = (*self._loss.PARTS, *self._loss.METRICS)
        # The same on every process, also before it has had a batch of each data set.
        self._parts = {(name, part): prefix + part for name, prefix in prefixes.items() for part in parts}
        self._sums: dict[tuple[str, str], Tensor] = {}
        self._source = next(iter(self.sizes))
        self.add_callback(_AverageOwnGradients(self))

    def run(self, checkpoint: Path | None) -> None:
        """Train to ``args.max_steps``, from the beginning or from a checkpoint of this stage.

        Raises:
            CheckpointError: If the checkpoint is of another run.
        """
        if checkpoint is None:
            self.train()
            return
        state = TrainerState.load_from_json(str(checkpoint / _STATE))
        if state.global_step < self.args.max_steps:
            self.train(resume_from_checkpoint=str(checkpoint))
        else:  # all steps are done; the stock trainer would do one more
            self._load_from_checkpoint(str(checkpoint))
            self.state = state

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Compute the loss like the stock trainer, and remember the data set of the batch."""
        self._source = inputs["dataset_name"]
        return super().compute_loss(model, inputs, *args, **kwargs)

    def track_loss_components(self, loss: dict[str, Tensor]) -> None:
        """Add the parts and metrics of one batch to their running sums of value and count."""
        for part, value in {**loss, **self._loss.metrics}.items():
            value = value.detach().float()
            # A part is exactly 0 if no row had data for it, except the contrastive one.
            count = torch.ones_like(value) if part == "contrastive" else (value != 0).float()
            key, one = (self._source, part), torch.stack([value, count])  # (2,)
            self._sums[key] = self._sums[key] + one if key in self._sums else one

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with the mean of each part since the last log."""
        if "loss" in logs:
            zero = torch.zeros(2, device=self.args.device)
            table = torch.stack([self._sums.get(key, zero) for key in self._parts])  # (parts, 2)
            sums = self.accelerator.reduce(table, reduction="sum").tolist()
            for name, (total, count) in zip(self._parts.values(), sums, strict=True):
                if count:
                    logs[name] = total / count
            self._sums.clear()
        super().log(logs, start_time)

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Add none: the stock callback would put training rows, images included, into the card."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not self.args.should_save:  # called by every process
            return
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self._trained(), folder / TRAINED)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_into(self._trained(), Path(resume_from_checkpoint) / TRAINED)

    def _trained(self) -> dict[str, Tensor]:
        weights = {f"model.{n}": p.data for n, p in self.model.named_parameters() if p.requires_grad}
        return weights | {f"loss.{name}": tensor for name, tensor in own_state(self._loss).items()}

    @property
    def _loss(self) -> CachedContrastiveLoss:
        # One loss, under the name of each data set.
        return cast("CachedContrastiveLoss", next(iter(self.loss.values())))


class _AverageOwnGradients(TrainerCallback):
    """Average the gradients of the loss's own parameters over processes; DDP averages only those of the model."""

    def __init__(self, trainer: StageTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(self, *_args: Any, **_kwargs: Any) -> None:
        """Average them on every process, also if its batches did not need a parameter."""
        if self.trainer.accelerator.num_processes == 1:
            return
        for name, parameter in self.trainer._loss.named_parameters():
            if not name.startswith("model.") and parameter.requires_grad:
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = self.trainer.accelerator.reduce(gradient, reduction="mean")


def own_state(loss: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of the loss without those of its model; writing to the tensors changes the loss."""
    named = [*loss.named_parameters(), *loss.named_buffers()]
    return {name: tensor.data for name, tensor in named if not name.startswith("model.")}


def load_into(tensors: dict[str, Tensor], path: Path) -> None:
    """Load tensors in place from a file that has the same names.

    Raises:
        CheckpointError: If the file holds other names or shapes.
    """
    saved = load_file(path)
    here, there = ({(n, tuple(t.shape)) for n, t in state.items()} for state in (tensors, saved))
    if here != there:
        raise CheckpointError(
            f"{path} has other weights than this run trains, such as {sorted(here ^ there)[0][0]!r}; it is of another "
            "run. Give another output_dir."
        )
    for name, tensor in tensors.items():
        tensor.copy_(saved[name])


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete trainer checkpoint, which is one with a readable state, the file that is written last."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    return next((path for path in found if _is_complete(path)), None)


def _is_complete(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / _STATE).read_text())
    except (OSError, ValueError):
        return False
    return True
