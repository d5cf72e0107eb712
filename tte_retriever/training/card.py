"""The model card of a trained checkpoint: facts of its training, no paths and no rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tte_retriever.methods.table import METHODS
from tte_retriever.training.stages import RECORD, stage_folder

if TYPE_CHECKING:
    from tte_retriever.encoder import TTEEncoder
    from tte_retriever.training.config import StageConfig, TrainConfig


def training_card(model: TTEEncoder, config: TrainConfig) -> str:
    """The ``README.md`` of a finished run.

    Args:
        model: The trained model.
        config: The config of the run.
    """
    name = config.model.backbone
    base = Path(name).resolve().name if Path(name).exists() else name
    lora = config.lora
    weights = f"LoRA, rank {lora.rank}, alpha {lora.alpha}, merged" if lora else "full fine-tuning"
    weights_of = [name.replace("_weight", " x") for name in config.stages[0].loss_weights]
    stages = "\n".join(_row(config, stage) for stage in config.stages)
    data = "\n".join(f"| `{each.name}` | {each.format} | {each.rows or 'all'} |" for each in config.data)
    budgets = "random in each batch" if vars(config.collator).get("nested_budgets") else "all think tokens"
    cap = f", each capped at {config.max_steps} steps to try it out" if config.max_steps else ""
    return f"""# {config.model.method} on {base}

Trained with `tte-retriever train`. {METHODS[config.model.method].loading}, 0 to {model.max_budget}.
**It was not evaluated by its training**, and the licence is that of the backbone.

| | |
|---|---|
| backbone | `{base}` |
| think tokens (K) | {model.max_budget}, budget in training: {budgets} |
| weights | {weights}, {config.model.dtype}; frozen: {", ".join(config.freeze) or "nothing"} |
| loss | {", ".join(f"{name} {value}" for name, value in vars(config.loss).items())} |
| seed | {config.seed} |

Stages, one after the other{cap}:

| stage | steps | peak rate | {" | ".join(weights_of)} | frozen besides | last logged loss |
|---|---|---|{"---|" * len(weights_of)}---|---|
{stages}

Data, one data set per batch:

| name | format | rows per epoch |
|---|---|---|
{data}
"""


def _row(config: TrainConfig, stage: StageConfig) -> str:
    record = json.loads((stage_folder(config, stage) / RECORD).read_text(encoding="utf-8"))
    losses = [f"{entry['loss']:.3f}" for entry in record["log_history"] if "loss" in entry]
    weights = " | ".join(f"{weight:g}" for weight in stage.loss_weights.values())
    return (
        f"| {stage.name} | {record['global_step']} | {stage.learning_rate:g} | {weights} "
        f"| {', '.join(stage.freeze) or 'nothing'} | {(losses or ['?'])[-1]} |"
    )
