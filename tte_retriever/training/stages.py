"""Stages: each is one run of the trainer with its own schedule, and a folder that shows how far it has come."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from sentence_transformers import SentenceTransformerTrainingArguments

from tte_retriever.errors import InputError
from tte_retriever.training.config import RESULT, StageConfig, TrainConfig

if TYPE_CHECKING:
    from tte_retriever.training.trainer import StageTrainer

logger = logging.getLogger(__name__)

LOSS_STATE = "loss.safetensors"
"""File of a finished stage: the loss's own parameters, such as the temperature."""

RECORD = "log.json"
"""File of a finished stage: the trainer's state, with everything that was logged."""


def stage_folder(config: TrainConfig, stage: StageConfig) -> Path:
    """The folder with the trainer checkpoints and, once the stage is finished, its ``model``."""
    return Path(config.output_dir) / stage.name


def is_finished(config: TrainConfig, stage: StageConfig) -> bool:
    """Whether the folder has the ``model``, which is written last and atomically."""
    return (stage_folder(config, stage) / RESULT).is_dir()


def stage_arguments(config: TrainConfig, stage: StageConfig) -> SentenceTransformerTrainingArguments:
    """Arguments of the trainer in one stage.

    Raises:
        InputError: If the trainer refuses them.
    """
    given = {
        "use_cpu": not torch.accelerator.is_available(),
        "save_total_limit": 2,
        "remove_unused_columns": False,
        **config.trainer,
        "output_dir": str(stage_folder(config, stage)),
        "seed": config.seed + config.stages.index(stage),  # so that each stage has its own order of the data
        "learning_rate": stage.learning_rate,
        "lr_scheduler_type": stage.schedule,
        "lr_scheduler_kwargs": stage.schedule_options,
        "warmup_steps": stage.warmup if stage.warmup < 1 else round(stage.warmup),
    }
    try:
        return SentenceTransformerTrainingArguments(**given)
    except (TypeError, ValueError) as error:
        raise InputError(f"The trainer refuses the settings of stage {stage.name!r}: {error}") from error


def count_steps(trainer: StageTrainer, stage: StageConfig, most: int | None) -> int:
    """Number of optimiser steps of a stage, at most ``most``.

    Raises:
        InputError: If the data does not fill one batch.
    """
    batches, rows = len(trainer.get_train_dataloader()), trainer.args.train_batch_size
    small = [name for name, size in trainer.sizes.items() if size < rows]
    if small and trainer.args.dataloader_drop_last:
        logger.warning("nothing of %s is trained on: fewer rows than a batch of %d", ", ".join(small), rows)
    if not batches:
        raise InputError(f"Stage {stage.name!r} has no full batch of {rows} rows; use a smaller batch or more rows.")
    steps = stage.steps
    if steps is None:
        steps = math.ceil((stage.epochs or 0) * batches / trainer.args.gradient_accumulation_steps)
    return steps if most is None else min(steps, most)
