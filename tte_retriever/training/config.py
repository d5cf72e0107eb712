"""What a training run is, as values: frozen dataclasses, read from YAML."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

RESULT = "model"
"""Folder of a finished checkpoint, below ``output_dir`` and below each stage's folder."""

Part = Literal["vision", "merger", "language", "backbone"]
"""A part of a backbone that can be frozen; ``backbone`` is all of it but the rows of think and embed tokens."""


@dataclass(frozen=True)
class ModelConfig:
    """What is trained.

    Attributes:
        backbone: Bundled name, folder or hub id: a Qwen-VL backbone, which gets its tokens first, or a checkpoint that
            has them already and is trained on. ``tiny-backbone`` is an untrained one for the small world.
        method: One of :data:`tte_retriever.methods.table.METHODS`.
        think_tokens: K; ``None`` is what the checkpoint has, or the method's own.
        dtype: Of the weights. Under ``trainer.bf16`` float32 weights are computed with in bfloat16.
        attention: Attention implementation of transformers; ``None`` is its default.
    """

    backbone: str
    method: str = "tte-flash"
    think_tokens: int | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: str | None = None

    @property
    def build_options(self) -> dict[str, Any]:
        """How a backbone becomes a checkpoint of the method."""
        return {"think_tokens": self.think_tokens}


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters instead of full fine-tuning; the rows of think and embed tokens are trained beside them.

    Attributes:
        rank: r.
        alpha: Scale of the adapters is alpha / rank.
        dropout: Before each adapter.
        targets: Regular expression over full module names.
    """

    rank: int = 16
    alpha: int = 64
    dropout: float = 0.0
    targets: str = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"


@dataclass(frozen=True)
class DataConfig:
    """One data set. Batches never mix two.

    Attributes:
        name: Names it in logs.
        path: Its file; for ``small-world``, the name of a family of the drawn world.
        format: How its rows are written.
        media_root: Folder that paths of media are relative to; ``None`` is the folder of the file.
        split: Whether rows that name a ``source`` count as data sets of their own, ``<name>-<source>``.
        rows: Rows an epoch takes from it, which is its weight in the mixture: a seeded sample of all if fewer than there
            are, the whole over and over if more. ``None`` is every row once.
    """

    name: str
    path: str
    format: Literal["pairs", "mmeb", "ume", "small-world"] = "pairs"
    media_root: str | None = None
    split: bool = False
    rows: int | None = None


@dataclass(frozen=True)
class CollatorConfig:
    """How rows become batches.

    Attributes:
        nested_budgets: Whether each batch thinks with a random number of think tokens, so that every budget works.
        max_rationale_tokens: Longer rationales are cut.
        prompts: Column → instruction, which becomes a system message.
    """

    nested_budgets: bool = False
    max_rationale_tokens: int = 512
    prompts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LossConfig:
    """Flags of :class:`tte_retriever.training.tte_flash.loss.TTELoss` that all stages share; they are explained there."""

    rationale_from: Literal["thought", "query+thought"] = "thought"
    decoder: Literal["soft-prompt", "kv"] = "soft-prompt"
    stop_gradient: bool = False
    symmetric: bool = False
    matryoshka_dims: tuple[int, ...] | None = None
    mini_batch_size: int = 32
    gather_across_devices: bool = False
    temperature: float = 0.02
    learn_temperature: bool = True


@dataclass(frozen=True)
class StageConfig:
    """One stage: a run of the trainer with a schedule of its own, over ``steps`` or ``epochs``.

    Attributes:
        name: Names it in logs and its folder.
        learning_rate: Peak.
        steps: Optimiser steps.
        epochs: Passes over the data; a fraction is allowed.
        contrastive_weight: Of the contrastive loss; 0 leaves it out.
        rationale_weight: Of the generation loss; 0 leaves it out.
        schedule: Name of a transformers schedule: ``linear``, ``cosine``, ``constant_with_warmup`` …
        schedule_options: Of the schedule: ``{min_lr_rate: 0.05}`` for ``cosine_with_min_lr``.
        warmup: Steps of rising learning rate; below 1, a share of the stage.
        freeze: Parts that stay as they are in this stage, besides those of the whole run.
    """

    name: str
    learning_rate: float
    steps: int | None = None
    epochs: float | None = None
    contrastive_weight: float = 1.0
    rationale_weight: float = 1.0
    schedule: str = "linear"
    schedule_options: dict[str, Any] = field(default_factory=dict)
    warmup: float = 0.0
    freeze: tuple[Part, ...] = ()

    @property
    def loss_weights(self) -> dict[str, float]:
        """What the stage tells the loss: every ``<part>_weight``, by that name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name.endswith("_weight")}


@dataclass(frozen=True)
class TrainConfig:
    """A whole run.

    Attributes:
        output_dir: Where it goes: a folder per stage, and ``model``, the finished checkpoint.
        model: What is trained.
        data: What it is trained on.
        stages: One after the other; the model is carried on.
        seed: Of everything random.
        max_steps: Cap on each stage, to try a config in a minute.
        lora: Adapters; ``None`` is full fine-tuning.
        freeze: Parts that stay as they are.
        collator: How rows become batches.
        loss: Flags of the loss.
        trainer: Any ``SentenceTransformerTrainingArguments`` that is not set elsewhere in the config.
    """

    output_dir: str
    model: ModelConfig
    data: tuple[DataConfig, ...]
    stages: tuple[StageConfig, ...]
    seed: int = 0
    max_steps: int | None = None
    lora: LoraConfig | None = None
    freeze: tuple[Part, ...] = ()
    collator: CollatorConfig = CollatorConfig()
    loss: LossConfig = LossConfig()
    trainer: dict[str, Any] = field(default_factory=dict)

    @property
    def loss_options(self) -> dict[str, Any]:
        """What the loss is told in every stage."""
        return dict(vars(self.loss))

    @property
    def collator_options(self) -> dict[str, Any]:
        """What the collator is told."""
        return dict(vars(self.collator))

    def to_yaml(self) -> str:
        """The config with every default written out, as it is read back."""
        import yaml

        plain = asdict(self, dict_factory=lambda pairs: {k: list(v) if isinstance(v, tuple) else v for k, v in pairs})
        return yaml.safe_dump(plain, sort_keys=False)
