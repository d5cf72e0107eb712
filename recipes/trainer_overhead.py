"""What the trainer costs: its steps against those of a bare loop with the same model, loss, collator and data.

    python recipes/trainer_overhead.py recipes/configs/tte-flash/tiny.yaml --steps 40 --rounds 3

Trains the bundled model on the first data set of the config in its last stage, in turn with the trainer and with the loop,
and compares CPU time of the process per step: the median step, and the mean one, which has the logging in it.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import TrainerCallback, get_scheduler

from tte_retriever.training.config_files import read_config
from tte_retriever.training.data.mixture import load_data
from tte_retriever.training.model import load_model
from tte_retriever.training.run import run_stage
from tte_retriever.training.stages import stage_arguments
from tte_retriever.training.tte_flash.collator import TTECollator
from tte_retriever.training.tte_flash.loss import TTELoss

if TYPE_CHECKING:
    from tte_retriever.encoder import TTEEncoder
    from tte_retriever.training.config import TrainConfig

logger = logging.getLogger("trainer_overhead")

WARM_UP = 3
"""First steps of a round that are not counted."""


class Clock(TrainerCallback):
    """Notes the CPU time at the end of each step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_args: Any, **_kwargs: Any) -> None:
        """Note it."""
        self.ends.append(time.process_time())

    def steps(self) -> list[float]:
        """CPU seconds of each step that counts."""
        return [after - before for before, after in zip(self.ends[WARM_UP:], self.ends[WARM_UP + 1 :], strict=False)]


def with_trainer(config: TrainConfig, model: TTEEncoder, data: Any, collator: TTECollator) -> Clock:
    """One round of the trainer."""
    clock, stage = Clock(), config.stages[-1]
    arguments = stage_arguments(config, stage)
    run_stage(
        config, stage, model, data, collator, arguments=arguments, previous=None, loss=TTELoss, callbacks=[clock]
    )
    return clock


def with_loop(config: TrainConfig, model: TTEEncoder, data: Any, collator: TTECollator) -> Clock:
    """The same by hand."""
    clock, stage = Clock(), config.stages[-1]
    arguments = stage_arguments(config, stage)
    loss = TTELoss(
        model,
        contrastive_weight=stage.contrastive_weight,
        rationale_weight=stage.rationale_weight,
        **asdict(config.loss),
    )
    parameters, steps = list(loss.parameters()), stage.steps or 0
    optimizer = torch.optim.AdamW(
        parameters,
        lr=stage.learning_rate,
        betas=(arguments.adam_beta1, arguments.adam_beta2),
        weight_decay=arguments.weight_decay,
        fused=True,
    )
    schedule = get_scheduler(stage.schedule, optimizer, arguments.get_warmup_steps(steps), steps)
    (rows,) = data.values()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(config.seed)).tolist()
    size = arguments.per_device_train_batch_size
    model.train()
    for step in range(steps):
        batch = collator([rows[index] for index in order[step * size : (step + 1) * size]])
        columns = [
            {key.removeprefix(column): value for key, value in batch.items() if key.startswith(column)}
            for column in ("anchor_", "positive_")
        ]
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.bf16):
            parts = loss(columns)
        torch.stack(list(parts.values())).sum().backward()
        nn.utils.clip_grad_norm_(parameters, arguments.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        clock.on_step_end()
    return clock


def main() -> None:
    """Measure, in turn, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value")
    parser.add_argument("--steps", type=int, default=40, help="in each round")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    fixed = ["output_dir=unused", "trainer.use_cpu=true", "trainer.disable_tqdm=true", "trainer.report_to=none"]
    config = read_config(arguments.config, [*fixed, *arguments.set])
    config = replace(config, stages=(replace(config.stages[-1], steps=arguments.steps, epochs=None),))
    taken: dict[str, list[float]] = {"trainer": [], "loop": []}
    for turn in range(arguments.rounds):
        contestants = [("trainer", with_trainer), ("loop", with_loop)]
        for name, way in contestants if turn % 2 == 0 else reversed(contestants):
            with TemporaryDirectory() as folder:
                run = replace(config, output_dir=folder)
                model = load_model("tte-flash-tiny", config.model)
                data = load_data(config.data[:1], seed=config.seed, quarantine=Path(folder, "quarantine.jsonl"))
                clock = way(run, model, data, TTECollator(model, seed=config.seed))
            taken[name] += clock.steps()
    for name, seconds in taken.items():
        middle, mean = (1000 * each(seconds) for each in (statistics.median, statistics.fmean))
        logger.info("%s: median %.0f, mean %.0f CPU ms a step, %d steps", name, middle, mean, len(seconds))
    for each in (statistics.median, statistics.fmean):
        logger.info("%s of trainer / loop: %.3f", each.__name__, each(taken["trainer"]) / each(taken["loop"]))


if __name__ == "__main__":
    main()
