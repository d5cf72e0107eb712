"""The config of a training run: frozen dataclasses, read from YAML by :mod:`~tte_retriever.training.config_files`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

RESULT = "model"
"""Folder of a finished checkpoint, below ``output_dir`` and below each stage's folder."""

Part = Literal["vision", "merger", "language", "backbone"]
"""A part of a backbone that can be frozen; ``backbone`` is all of it but the rows of think and embed tokens."""


@dataclass(frozen=True)
class ModelConfig:
    """The model that is trained.

    Attributes:
        backbone: Bundled name, folder or hub id of a Qwen-VL backbone, from which a checkpoint of the method is built, or
            of a checkpoint of the method, which is trained further. ``tiny-backbone`` is an untrained one for the small
            world.
        method: One of :data:`tte_retriever.methods.table.METHODS`.
        think_tokens: K; ``None`` is that of the checkpoint, or the default of the method.
        dtype: Data type of the weights. With ``trainer.bf16``, float32 weights are cast to bfloat16 for computation.
        attention: Attention implementation of transformers; ``None`` is its default.
        max_pixels: The most pixels of an image that the model sees, in training and, as its image processor saves them,
            afterwards; ``None`` is the backbone's own limit.
    """

    backbone: str
    method: str = "tte-flash"
    think_tokens: int | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: str | None = None
    max_pixels: int | None = None

    @property
    def build_options(self) -> dict[str, Any]:
        """Options of :func:`tte_retriever.build` for a backbone."""
        return {"think_tokens": self.think_tokens}


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters instead of full fine-tuning; the embedding rows of the new tokens are trained beside them.

    Attributes:
        rank: r.
        alpha: The adapters are scaled by alpha / rank.
        dropout: Dropout before each adapter.
        targets: Regular expression for full module names. By default all linear layers of the language model.
    """

    rank: int = 16
    alpha: int = 64
    dropout: float = 0.0
    targets: str = r".*language_model.*\.((q|k|v|o|gate|up|down|out)_proj|in_proj_(qkv|z|a|b))"


@dataclass(frozen=True)
class DataConfig:
    """One data set. A batch never mixes two.

    Attributes:
        name: Its name in logs.
        path: Its file; for ``small-world``, the name of a family of the drawn world.
        format: Format of its rows.
        media_root: Folder to which paths of media are relative; ``None`` is the folder of the file.
        split: Whether rows are split by their ``source`` into data sets named ``<name>-<source>``.
        rows: Number of rows per epoch, which is its weight in the mixture: a seeded sample if it has more, repetitions if
            it has fewer. ``None`` is every row once.
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
        max_rationale_tokens: Longer rationales are cut.
        prompts: Column → instruction, which becomes a system message.
    """

    max_rationale_tokens: int = 512
    prompts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LossConfig:
    """Options of :class:`tte_retriever.training.cached_contrastive.CachedContrastiveLoss` that all stages share."""

    symmetric: bool = False
    matryoshka_dims: tuple[int, ...] | None = None
    mini_batch_size: int = 32
    gather_across_devices: bool = False
    temperature: float = 0.02
    learn_temperature: bool = True


@dataclass(frozen=True)
class StageConfig:
    """One stage: a run of the trainer with its own schedule, for a number of ``steps`` or ``epochs``.

    Attributes:
        name: Its name in logs, and the name of its folder.
        learning_rate: Peak learning rate.
        steps: Optimiser steps.
        epochs: Passes over the data; may be a fraction.
        contrastive_weight: Weight of the contrastive loss; 0 leaves it out.
        rationale_weight: Weight of the generation loss; 0 leaves it out.
        schedule: Name of a transformers schedule, such as ``linear``, ``cosine`` or ``constant_with_warmup``.
        schedule_options: Options of the schedule, such as ``{min_lr_rate: 0.05}`` for ``cosine_with_min_lr``.
        warmup: Number of steps in which the learning rate rises; below 1, a share of the stage.
        freeze: Parts that are frozen in this stage, besides those of the whole run.
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
        """Arguments of the loss that differ between stages: every ``<part>_weight``."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name.endswith("_weight")}


@dataclass(frozen=True)
class TrainConfig:
    """A whole run.

    Attributes:
        output_dir: Folder of the run, with a folder per stage and ``model``, the finished checkpoint.
        model: The model that is trained.
        data: The data sets.
        stages: The stages, each of which continues with the model of the one before.
        seed: Seed of everything random.
        max_steps: Largest number of steps per stage, to try a config in a minute.
        lora: Adapters; ``None`` is full fine-tuning.
        freeze: Parts that are frozen in all stages.
        collator: Options of the collator.
        loss: Options of the loss.
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
        """Options of the loss, the same in every stage."""
        return dict(vars(self.loss))

    @property
    def decodes_query(self) -> bool:
        """Whether rationales are decoded from the query as well, so that no thought is needed."""
        return False

    def collator_options(self, seed: int) -> dict[str, Any]:
        """Options of the collator; ``seed`` is that of the stage."""
        return dict(vars(self.collator))

    def to_yaml(self) -> str:
        """The config as YAML, with every default, which reads back as an equal config."""
        import yaml

        plain = asdict(self, dict_factory=lambda pairs: {k: list(v) if isinstance(v, tuple) else v for k, v in pairs})
        return yaml.safe_dump(plain, sort_keys=False)
