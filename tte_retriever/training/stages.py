"""Stages: each is one run of the trainer with its own schedule, and a folder that says how far it has come."""

from __future__ import annotations

import logging
import math
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformerTrainingArguments

from tte_retriever.errors import InputError
from tte_retriever.training.config import RESULT, StageConfig, TrainConfig
from tte_retriever.training.freezing import freeze
from tte_retriever.training.lora import add_lora, add_rows, merge_lora
from tte_retriever.training.trainer import StageTrainer, load_into, newest_checkpoint, own_state

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from datasets import DatasetDict
    from transformers import TrainerCallback

    from tte_retriever.encoder import TTEEncoder
    from tte_retriever.training.tte_flash.loss import TTELoss

logger = logging.getLogger(__name__)

LOSS_STATE = "loss.safetensors"
"""What a finished stage leaves of its loss: its own parameters, such as the temperature."""

RECORD = "log.json"
"""What a finished stage leaves of its log: the trainer's state."""


def stage_folder(config: TrainConfig, stage: StageConfig) -> Path:
    """Trainer checkpoints, and, once the stage is finished, its ``model``."""
    return Path(config.output_dir) / stage.name


def is_finished(config: TrainConfig, stage: StageConfig) -> bool:
    """Whether the stage has left its result, which comes into place whole."""
    return (stage_folder(config, stage) / RESULT).is_dir()


def stage_arguments(config: TrainConfig, stage: StageConfig) -> SentenceTransformerTrainingArguments:
    """What the trainer is told in one stage.

    Raises:
        InputError: If it refuses.
    """
    given = {
        "use_cpu": not torch.accelerator.is_available(),
        "save_total_limit": 2,
        "remove_unused_columns": False,
        **config.trainer,
        "output_dir": str(stage_folder(config, stage)),
        "seed": config.seed + config.stages.index(stage),  # another order of the data in each stage
        "learning_rate": stage.learning_rate,
        "lr_scheduler_type": stage.schedule,
        "lr_scheduler_kwargs": stage.schedule_options,
        "warmup_steps": stage.warmup if stage.warmup < 1 else round(stage.warmup),
    }
    try:
        return SentenceTransformerTrainingArguments(**given)
    except (TypeError, ValueError) as error:
        raise InputError(f"The trainer refuses the settings of stage {stage.name!r}: {error}") from error


def run_stage(
    config: TrainConfig,
    stage: StageConfig,
    model: TTEEncoder,
    data: DatasetDict,
    collator: Any,
    *,
    arguments: SentenceTransformerTrainingArguments,
    before: Path | None,
    loss: Callable[..., TTELoss],
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Train one stage, in place, and leave its result on disk; a stage that was stopped goes on where it was.

    Args:
        config: The whole run.
        stage: One of ``config.stages``.
        model: What is trained: afterwards a plain model again, with adapters merged.
        data: Data sets by name.
        collator: Rows → batch.
        arguments: Those of :func:`stage_arguments`.
        before: Folder of the stage before, whose loss's own parameters are carried on.
        loss: Makes the loss from the model, the flags of the config and the weights of the stage.
        callbacks: As for the trainer.
    """
    torch.manual_seed(arguments.seed)
    frozen = (*config.freeze, *stage.freeze)
    adapted = add_lora(model, config.lora) if config.lora else add_rows(model) if "backbone" in frozen else None
    freeze(model.transformer.model, frozen)
    stage_loss = loss(model, **config.loss_options, **stage.loss_weights)
    if before is not None:
        load_into(own_state(stage_loss), before / LOSS_STATE)
    trainer = StageTrainer(
        model=model,
        args=arguments,
        train_dataset=data,
        loss=dict.fromkeys(
            data, stage_loss
        ),  # one loss under every name, so that batches say which data set they are of
        data_collator=collator,
        callbacks=[*callbacks, *stage_loss.callbacks],
    )
    arguments.max_steps = count_steps(trainer, stage, config.max_steps)
    checkpoint = newest_checkpoint(stage_folder(config, stage))
    if checkpoint is not None:
        logger.info("stage %s goes on from %s", stage.name, checkpoint.name)
    trainer.run(checkpoint)
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # autocast belongs to this trainer
    model.__dict__.pop("_is_accelerate_prepared", None)  # which would keep the next trainer from its own autocast
    if adapted is not None:
        merge_lora(adapted)
    model.requires_grad_(True)
    if trainer.is_world_process_zero():
        folder = stage_folder(config, stage)
        save_file(own_state(stage_loss), folder / LOSS_STATE)
        trainer.state.save_to_json(str(folder / RECORD))
        save_whole(model, folder / RESULT)
    trainer.accelerator.wait_for_everyone()


def count_steps(trainer: StageTrainer, stage: StageConfig, most: int | None) -> int:
    """Optimiser steps of a stage.

    Raises:
        InputError: If there is not even one batch.
    """
    batches, rows = len(trainer.get_train_dataloader()), trainer.args.train_batch_size
    if trainer.args.dataloader_drop_last:
        small = [name for name, dataset in cast("Any", trainer.train_dataset).items() if len(dataset) < rows]
        if small:
            logger.warning("nothing of %s is trained on: fewer rows than a batch of %d", ", ".join(small), rows)
    if not batches:
        raise InputError(f"Stage {stage.name!r} has no full batch of {rows} rows; use a smaller batch or more rows.")
    steps = stage.steps
    if steps is None:
        steps = math.ceil(cast("float", stage.epochs) * batches / trainer.args.gradient_accumulation_steps)
    return steps if most is None else min(steps, most)


def save_whole(model: TTEEncoder, folder: Path, card: str | None = None) -> None:
    """Save a model so that ``folder`` holds all of it or does not exist, also after a power cut.

    Args:
        model: What to save.
        folder: A new folder.
        card: Its ``README.md``.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(str(partial), create_model_card=False)
    if card is not None:
        (partial / "README.md").write_text(card, encoding="utf-8")
    for path in [*partial.rglob("*"), partial]:
        _flush(path)
    partial.rename(folder)
    _flush(folder.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
