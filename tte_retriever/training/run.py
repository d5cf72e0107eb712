"""A training run on one page: from a config to a finished checkpoint."""

from __future__ import annotations

import gc
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from tte_retriever.atomic import atomic_write_text
from tte_retriever.checkpoint import save_model
from tte_retriever.errors import InputError
from tte_retriever.methods.table import METHODS
from tte_retriever.training.card import training_card
from tte_retriever.training.config import RESULT, StageConfig, TrainConfig
from tte_retriever.training.config_files import require_extras
from tte_retriever.training.data.mixture import load_data
from tte_retriever.training.freezing import freeze
from tte_retriever.training.lora import add_lora, merge_lora, train_token_rows
from tte_retriever.training.model import load_model, prepare_start
from tte_retriever.training.stages import LOSS_STATE, RECORD, count_steps, is_finished, stage_arguments, stage_folder
from tte_retriever.training.trainer import StageTrainer, load_into, newest_checkpoint, own_state

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from datasets import DatasetDict
    from sentence_transformers import SentenceTransformerTrainingArguments
    from transformers import TrainerCallback

    from tte_retriever.encoder import TTEEncoder
    from tte_retriever.training.cached_contrastive import CachedContrastiveLoss

logger = logging.getLogger(__name__)


def train(config: TrainConfig) -> Path:
    """Train every stage of a config that is not finished yet, and save the result.

    A run that was stopped continues when it is called again: finished stages are skipped, and the stage that was running
    starts from its newest trainer checkpoint. Under ``accelerate launch`` or ``torchrun`` every process calls it.

    Args:
        config: The run; see :func:`tte_retriever.training.read_config`.

    Returns:
        ``output_dir/model``, a plain checkpoint with adapters merged, which ``SentenceTransformer`` loads.

    Raises:
        InputError: A setting that cannot be used, data or a backbone that cannot be loaded, or an ``output_dir`` that holds
            a run of another config.
        CheckpointError: A backbone of a family that is not supported.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from tte_retriever.training.config import DataConfig, ModelConfig, StageConfig, TrainConfig
        >>> with TemporaryDirectory() as folder:
        ...     config = TrainConfig(
        ...         output_dir=folder,
        ...         model=ModelConfig("tte-flash-tiny"),
        ...         data=(DataConfig("caption", path="caption", format="small-world", rows=2),),
        ...         stages=(StageConfig("joint", learning_rate=1e-4, steps=1),),
        ...         trainer={"per_device_train_batch_size": 2, "disable_tqdm": True, "use_cpu": True},
        ...     )
        ...     train(config).name
        {'train_runtime': ...}
        'model'
    """
    # 1. Settings that cannot be used are refused before anything is loaded.
    require_extras()
    method, out = METHODS[config.model.method], Path(config.output_dir)
    arguments = [stage_arguments(config, stage) for stage in config.stages]

    # 2. The folder belongs to this config from now on. The main process writes; the others wait.
    with arguments[0].main_process_first(local=False, desc="the config"):
        pin_config(out, config)
    if (result := out / RESULT).exists():
        return result

    # 3. The data, and the checkpoint to start from.
    quarantine = out / "quarantine.jsonl"
    data = load_data(config.data, seed=config.seed, quarantine=quarantine)
    with arguments[0].main_process_first(local=False, desc="the start"):
        start = prepare_start(config.model, out / "start", seed=config.seed)
    model, previous = load_model(start, config.model), None

    # 4. The stages, each from where the one before ended.
    for stage, settings in zip(config.stages, arguments, strict=True):
        folder = stage_folder(config, stage)
        if is_finished(config, stage):
            logger.info("stage %s is finished already", stage.name)
            model = load_model(folder / RESULT, config.model)
        else:
            options = {**config.collator_options(settings.seed), "quarantine": quarantine}
            collator, loss = method.resolve("collator")(model, **options), method.resolve("loss")
            run_stage(config, stage, model, data, collator, arguments=settings, previous=previous, loss=loss)
            gc.collect()  # a trainer and its optimiser are in reference cycles
        previous = folder

    # 5. The finished checkpoint, with a model card.
    with arguments[-1].main_process_first(local=False, desc="the result"):
        if not result.exists():
            save_model(model, result, training_card(model, config))
    return result


def run_stage(
    config: TrainConfig,
    stage: StageConfig,
    model: TTEEncoder,
    data: DatasetDict,
    collator: Any,
    *,
    arguments: SentenceTransformerTrainingArguments,
    previous: Path | None,
    loss: Callable[..., CachedContrastiveLoss],
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Train one stage in place and save its result; a stage that was stopped continues from its newest checkpoint.

    Args:
        config: The whole run.
        stage: One of ``config.stages``.
        model: What is trained. Afterwards it is a plain model again, with adapters merged.
        data: Data sets by name.
        collator: Turns rows into a batch.
        arguments: From :func:`stage_arguments`.
        previous: Folder of the stage before, from which the loss's own parameters are loaded.
        loss: Makes the loss from the model, the options of the config and the weights of the stage.
        callbacks: More callbacks for the trainer.
    """
    folder = stage_folder(config, stage)
    torch.manual_seed(arguments.seed)

    # 1. What is trained: adapters, the rows of the new tokens alone, or everything; less what is frozen.
    adapted, frozen = None, (*config.freeze, *stage.freeze)
    if config.lora:
        adapted = add_lora(model, config.lora)
    elif "backbone" in frozen:
        adapted = train_token_rows(model)
    freeze(model.transformer.model, frozen)

    # 2. The loss, with its own parameters as the stage before left them.
    stage_loss = loss(model, **config.loss_options, **stage.loss_weights)
    if previous is not None:
        load_into(own_state(stage_loss), previous / LOSS_STATE)

    # 3. Train, from the newest checkpoint if there is one. The loss has the name of each data set, which batches carry.
    trainer = StageTrainer(
        model=model,
        args=arguments,
        train_dataset=data,
        loss=dict.fromkeys(data, stage_loss),
        data_collator=collator,
        callbacks=[*callbacks, *stage_loss.callbacks],
    )
    arguments.max_steps = count_steps(trainer, stage, config.max_steps)
    if (checkpoint := newest_checkpoint(folder)) is not None:
        logger.info("stage %s goes on from %s", stage.name, checkpoint.name)
    trainer.run(checkpoint)

    # 4. Turn what was trained back into a plain model.
    trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # autocast belongs to this trainer
    model.__dict__.pop("_is_accelerate_prepared", None)  # or the next trainer would not set up its own autocast
    if adapted is not None:
        merge_lora(adapted)
    model.requires_grad_(True)

    # 5. Save. The model comes last: the stage is finished when it is there.
    if trainer.is_world_process_zero():
        save_file(own_state(stage_loss), folder / LOSS_STATE)
        trainer.state.save_to_json(str(folder / RECORD))
        save_model(model, folder / RESULT)
    trainer.accelerator.wait_for_everyone()


def pin_config(out: Path, config: TrainConfig) -> None:
    """Write the config into the folder of the run, unless a run of another config has begun there.

    Raises:
        InputError: If one has.
    """
    path, text = out / "config.yaml", config.to_yaml()
    begun = any(child.is_dir() for child in out.iterdir()) if path.exists() else False
    pinned = path.read_text(encoding="utf-8") if begun else text
    if pinned != text:
        changed = sorted(set(map(str.strip, pinned.splitlines())) ^ set(map(str.strip, text.splitlines())))
        raise InputError(
            f"{str(out)!r} holds a run with another config (they differ in {'; '.join(changed[:4])}); give another "
            "output_dir, or the config of that run to continue it."
        )
    out.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, text)
