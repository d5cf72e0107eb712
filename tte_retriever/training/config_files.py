"""Training configs from YAML: read, converted to frozen dataclasses and checked; no model is loaded."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tte_retriever.errors import InputError, check_choice
from tte_retriever.methods.table import METHODS, Method
from tte_retriever.training.config import RESULT, ModelConfig, StageConfig, TrainConfig
from tte_retriever.training.parsing import from_mapping, refuse_unknown, set_value

if TYPE_CHECKING:
    from collections.abc import Sequence

C = TypeVar("C", bound=TrainConfig)

_SET_ELSEWHERE = {
    **dict.fromkeys(("output_dir", "seed", "max_steps"), "use the key of the same name at the top"),
    **dict.fromkeys(
        ("learning_rate", "num_train_epochs", "warmup_steps", "warmup_ratio", "lr_scheduler_type"), "use stages"
    ),
    "prompts": "use collator.prompts",
    "save_only_model": "leave it out, because a run has to be resumable",
    **dict.fromkeys(("eval_strategy", "load_best_model_at_end"), "leave it out, because stages do not evaluate"),
}
"""Arguments of the trainer that ``trainer`` cannot set, and what to do instead."""


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read the config of a training run and check everything that can be checked without a model.

    Args:
        path: A YAML file.
        overrides: ``key=value`` each, such as ``max_steps=2``, ``loss.stop_gradient=true`` or ``stages.0.steps=10``.

    Returns:
        The config class of the method that ``model.method`` names.

    Raises:
        InputError: A file, key or value that cannot be used. The message has its dotted path and, for an unknown key,
            the nearest known one.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> text = '''
        ... output_dir: runs/mine
        ... model: {backbone: tte-flash-tiny}
        ... data: [{name: mine, path: pairs.jsonl}]
        ... stages: [{name: joint, steps: 100, learning_rate: 1.0e-4}]
        ... '''
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "config.yaml")
        ...     _ = path.write_text(text)
        ...     read_config(path, ["stages.0.steps=2"]).stages[0].steps
        2
    """
    values = read_values(path, overrides)
    return parse_config(values, method_of(values).resolve("config"))


def read_config_as(config_class: type[C], path: str | Path, overrides: Sequence[str] = ()) -> C:
    """Read a config into a given class; otherwise like :func:`read_config`."""
    return parse_config(read_values(path, overrides), config_class)


def parse_config(values: Any, config_class: type[C]) -> C:
    """Convert what a YAML file holds, and check it; raises like :func:`read_config`."""
    config = from_mapping(config_class, values)
    _check(config)
    return config


def method_of(values: Any) -> Method:
    """The method that the values of a config name; other faults of the values are left to :func:`parse_config`.

    Raises:
        InputError: If there is no such method.
    """
    model = values.get("model") if isinstance(values, dict) else None
    return _method_called(model.get("method", ModelConfig.method) if isinstance(model, dict) else ModelConfig.method)


def _method_called(name: Any) -> Method:
    check_choice("model.method", name, list(METHODS))
    return METHODS[name]


def read_values(path: str | Path, overrides: Sequence[str] = ()) -> Any:
    """Read the values of a YAML file and apply overrides; arguments and errors are those of :func:`read_config`."""
    require_extras()
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        if isinstance(values, dict):
            for override in overrides:
                set_value(values, override, yaml.safe_load)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"The config {str(path)!r} cannot be read: {error}") from error
    return values


def require_extras() -> None:
    """Raise unless the packages of the ``train`` extra are installed.

    Raises:
        InputError: If one is missing.
    """
    missing = [name for name in ("datasets", "peft", "yaml") if find_spec(name) is None]
    if missing:
        raise InputError(
            f"Training needs {', '.join(missing)}, not installed with the core: pip install 'tte-retriever[train]'."
        )


def _check(config: TrainConfig) -> None:
    positive: dict[str, float | None] = {"max_steps": config.max_steps}
    positive |= {"collator.max_rationale_tokens": config.collator.max_rationale_tokens}
    positive |= {"loss.mini_batch_size": config.loss.mini_batch_size, "loss.temperature": config.loss.temperature}
    for index, data in enumerate(config.data):
        positive[f"data.{index}.rows"] = data.rows
        if not re.fullmatch(r"[\w-]+", data.name):
            raise InputError(f"data.{index}.name is {data.name!r}; give letters, digits, - and _.")
    for index, stage in enumerate(config.stages):
        where = f"stages.{index}"
        positive |= {f"{where}.{name}": getattr(stage, name) for name in ("learning_rate", "steps", "epochs")}
        if (stage.steps is None) == (stage.epochs is None):
            raise InputError(
                f"{where} ({stage.name}) has steps {stage.steps} and epochs {stage.epochs}; give one of them."
            )
        if not re.fullmatch(r"[\w-]+", stage.name) or stage.name == RESULT:
            raise InputError(f"{where}.name is {stage.name!r}; give letters, digits, - and _, but not {RESULT!r}.")
        if min(stage.loss_weights.values()) < 0 or not _learns(config, stage):
            raise InputError(
                f"{where} ({stage.name}) learns nothing: contrastive_weight is {stage.contrastive_weight}, "
                f"rationale_weight {stage.rationale_weight}. Give weights of 0 or more and not only 0; direct has no "
                "thought to decode, so its rationale_weight is 0, unless loss.rationale_from is query+thought."
            )
    for name, number in positive.items():
        if number is not None and not number > 0:  # nan, too
            raise InputError(f"{name} is {number}; give a number above 0.")
    for section in ("data", "stages"):
        names = [each.name for each in getattr(config, section)]
        if not names or len(set(names)) < len(names):
            raise InputError(f"{section} has the names {names}; give at least one, and no two alike.")
    _check_trainer(config.trainer)


def _learns(config: TrainConfig, stage: StageConfig) -> bool:
    if _method_called(config.model.method).has_thought:
        return stage.contrastive_weight + stage.rationale_weight > 0
    decodes = stage.rationale_weight == 0 or config.decodes_query
    return stage.contrastive_weight > 0 and decodes


def _check_trainer(arguments: dict[str, Any]) -> None:
    for name, advice in _SET_ELSEWHERE.items():
        if name in arguments:
            raise InputError(f"trainer.{name} cannot be set; {advice}.")
    if arguments:
        from sentence_transformers import SentenceTransformerTrainingArguments

        refuse_unknown(arguments, SentenceTransformerTrainingArguments.__dataclass_fields__, "trainer")
