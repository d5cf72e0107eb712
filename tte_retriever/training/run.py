"""A whole training run, from a config to a finished checkpoint."""

from __future__ import annotations

import gc
import logging
import os
from pathlib import Path

from tte_retriever.errors import InputError
from tte_retriever.methods.table import METHODS
from tte_retriever.training.card import training_card
from tte_retriever.training.config import RESULT, TrainConfig
from tte_retriever.training.config_files import require_extras
from tte_retriever.training.data.mixture import load_data
from tte_retriever.training.model import load_model, prepare_start
from tte_retriever.training.stages import is_finished, run_stage, save_whole, stage_arguments, stage_folder

logger = logging.getLogger(__name__)


def train(config: TrainConfig) -> Path:
    """Run every stage that is not finished yet and save the result.

    Called again after it was stopped, it skips finished stages and goes on inside the one that was running, from its
    newest trainer checkpoint. Under ``accelerate launch`` or ``torchrun`` every process calls it.

    Args:
        config: The run; see :func:`tte_retriever.training.config_files.read_config`.

    Returns:
        ``output_dir/model``: plain, merged, loads with ``SentenceTransformer``.

    Raises:
        InputError: What the config asks for cannot be had, or ``output_dir`` holds another run.
        CheckpointError: A model that is not of a supported family.
    """
    require_extras()
    method = METHODS[config.model.method]
    out = Path(config.output_dir)
    arguments = [stage_arguments(config, stage) for stage in config.stages]  # refused before anything is loaded
    result = out / RESULT
    with arguments[0].main_process_first(local=False, desc="the config"):
        claim(out, config)
    if result.exists():
        return result
    data = load_data(config.data, seed=config.seed, quarantine=out / "quarantine.jsonl")
    with arguments[0].main_process_first(local=False, desc="the start"):
        start = prepare_start(config.model, out / "start", seed=config.seed)
    model, before = load_model(start, config.model), None
    for stage, settings in zip(config.stages, arguments, strict=True):
        folder = stage_folder(config, stage)
        if is_finished(config, stage):
            logger.info("stage %s is finished already", stage.name)
            model = load_model(folder / RESULT, config.model)
        else:
            options = {**config.collator_options, "seed": settings.seed, "quarantine": out / "quarantine.jsonl"}
            collator = method.resolve("collator")(model, **options)
            run_stage(
                config, stage, model, data, collator, arguments=settings, before=before, loss=method.resolve("loss")
            )
            gc.collect()  # a trainer and its optimiser hang in reference cycles
        before = folder
    with arguments[-1].main_process_first(local=False, desc="the result"):
        if not result.exists():
            save_whole(model, result, card=training_card(model, config))
    return result


def claim(out: Path, config: TrainConfig) -> None:
    """Write the config into the run's folder, or see that what has been done there was done with the same.

    Raises:
        InputError: If it was another.
    """
    path, text = out / "config.yaml", config.to_yaml()
    begun = any(child.is_dir() for child in out.iterdir()) if path.exists() else False
    there = path.read_text(encoding="utf-8") if begun else text
    if there != text:
        changed = sorted({line.strip() for line in there.splitlines()} ^ {line.strip() for line in text.splitlines()})
        raise InputError(
            f"{str(out)!r} holds a run with another config (they differ in {'; '.join(changed[:4])}); give another "
            "output_dir, or the config of that run to go on with it."
        )
    out.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
