"""Train the bundled ``tte-flash-tiny`` from scratch on the small drawn world: one command, 70 minutes on one CPU core.

    python -m models.tte_flash_tiny.build models/tte_flash_tiny/config.yaml --set output_dir=runs/tiny

A Qwen3-VL of about 1.3 million parameters with its own byte-level vocabulary is trained in four stages:

1. transcription: pixels → words, decoded from everything in front of the embed token;
2. warm-up: the same words, decoded from the think tokens alone;
3. joint: retrieval over seven families, with rationales decoded from the think tokens;
4. finish: the same, most of it on the families that are still hard.

In every stage, a dense loss trains each visual token to name what is drawn in its cell. A run that was stopped resumes when
the command is repeated. The result is ``output_dir/model``, with ``training.json`` beside the weights.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F
from transformers import TrainerCallback

from models.tte_flash_tiny.config import WorldConfig, WorldStage
from models.tte_flash_tiny.data import WorldCollator, in_order, mixture
from models.tte_flash_tiny.loss import WorldLoss
from tte_retriever.atomic import atomic_write_text
from tte_retriever.backbones import qwen_vl_model
from tte_retriever.checkpoint import save_model
from tte_retriever.training.config import RESULT
from tte_retriever.training.config_files import read_config_as
from tte_retriever.training.model import load_model, prepare_start
from tte_retriever.training.run import pin_config, run_stage
from tte_retriever.training.stages import is_finished, stage_arguments, stage_folder

if TYPE_CHECKING:
    from tte_retriever.encoder import TTEEncoder

logger = logging.getLogger("tte_flash_tiny")

CPU_SECONDS = "cpu_seconds.json"


def load(name: str | Path, config: WorldConfig) -> TTEEncoder:
    """Load a checkpoint for training.

    Its patches do not overlap, so their convolution is replaced by a matrix product, which is several times faster on a CPU.
    """
    model = load_model(name, config.model)
    patches = qwen_vl_model(model.transformer).visual.patch_embed
    patches.forward = lambda pixels: F.linear(pixels, patches.proj.weight.flatten(1), patches.proj.bias)
    return model


class CpuSeconds(TrainerCallback):
    """Keeps a file of the CPU seconds behind the newest checkpoint of a stage, over all its starts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, *_args: Any, **_kwargs: Any) -> None:
        """Start the clock."""
        self.before = json.loads(self.path.read_text()) if self.path.exists() else 0.0
        self.started = time.process_time()

    def on_save(self, *_args: Any, **_kwargs: Any) -> None:
        """Write the file."""
        atomic_write_text(self.path, json.dumps(round(self.before + time.process_time() - self.started, 1)))

    on_train_end = on_save


def train_stage(config: WorldConfig, stage: WorldStage, model: TTEEncoder, before: Path | None) -> None:
    """Train one stage, in place."""
    data = mixture(config, stage)
    arguments = stage_arguments(config, stage)
    arguments.batch_sampler = in_order
    run_stage(
        replace(config, loss=replace(config.loss, rationale_from=stage.rationale_from, decoder=stage.decoder)),
        stage,
        model,
        data,
        WorldCollator(model, config, stage, {name: len(rows) for name, rows in data.items()}),
        arguments=arguments,
        previous=before,
        loss=WorldLoss,
        callbacks=[CpuSeconds(stage_folder(config, stage) / CPU_SECONDS)],
    )


def build(config: WorldConfig, until: str | None = None) -> Path:
    """Run every stage that is not finished yet, up to the one named ``until``, and save the result."""
    out = Path(config.output_dir)
    pin_config(out, config)
    start = prepare_start(config.model, out / "start", seed=config.seed)
    model, before = load(start, config), None
    for stage in config.stages:
        folder = stage_folder(config, stage)
        if is_finished(config, stage):
            model = load(folder / RESULT, config)
        else:
            train_stage(config, stage, model, before)
        if stage.name == until:
            return folder / RESULT
        before = folder
    result = out / RESULT
    if not result.exists():
        save_model(model, result)
    record = {
        "config": {key: value for key, value in asdict(config).items() if key != "output_dir"},
        "cpu_seconds": {
            stage.name: json.loads((stage_folder(config, stage) / CPU_SECONDS).read_text()) for stage in config.stages
        },
        "hardware": f"{platform.machine()}, torch {torch.__version__}, one thread",
    }
    atomic_write_text(result / "training.json", json.dumps(record, indent=1) + "\n")
    return result


def main() -> None:
    """Read the config and run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value")
    parser.add_argument("--until", metavar="STAGE", help="stop after this stage and print the folder of its model")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    config = read_config_as(WorldConfig, arguments.config, arguments.set)
    if arguments.until not in (None, *(stage.name for stage in config.stages)):
        parser.error(f"--until {arguments.until}: the stages are {', '.join(stage.name for stage in config.stages)}")
    logger.info("%s", build(config, arguments.until))


if __name__ == "__main__":
    main()
