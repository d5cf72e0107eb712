"""Train the bundled ``tte-flash-tiny`` from scratch on the small drawn world: one command, one CPU core, 70 minutes.

    python -m models.tte_flash_tiny.build models/tte_flash_tiny/config.yaml --set output_dir=runs/tiny

A Qwen3-VL of about 1.3 million parameters with its own byte-level vocabulary goes through four stages of the trainer:

1. transcription: pixels → words, decoded from everything in front of the embed token;
2. warm-up: the same words, decoded from the think tokens alone;
3. joint: retrieval over seven families, with rationales decoded from the think tokens;
4. finish: the same, most of it on the families that are still hard.

In every stage a dense loss has each visual token name what is drawn in its cell. Run again after it was stopped, it goes
on where it was. ``output_dir/model`` is the result, with ``training.json`` beside the weights.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from PIL import Image
from sentence_transformers.base.sampler import DefaultBatchSampler
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import TrainerCallback

from models.tte_flash_tiny.visual_words import visual_word_nll
from tte_retriever.checkpoint import save_model
from tte_retriever.errors import InputError
from tte_retriever.media import VideoFrames
from tte_retriever.small_world import ANSWERS, CLIP_S, Clip, Family, Item, Page, Pair, Scene, draw_pairs
from tte_retriever.small_world.drawing import worn
from tte_retriever.small_world.tasks import EDITS_PER_SCENE, page_pair, rngs, sample_times
from tte_retriever.training.collator import TTECollator
from tte_retriever.training.config import RESULT, StageConfig, TrainConfig
from tte_retriever.training.config_files import read_config_as
from tte_retriever.training.model import load_model, prepare_start
from tte_retriever.training.run import pin_config, run_stage
from tte_retriever.training.stages import is_finished, stage_arguments, stage_folder
from tte_retriever.training.tte_flash.loss import TTELoss
from tte_retriever.training.tte_flash.thinking import Decoder, RationaleFrom  # noqa: TC001  (read from the annotations)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tte_retriever.encoder import TTEEncoder

logger = logging.getLogger("tte_flash_tiny")

Shown: TypeAlias = Scene | Clip | Page
"""What pixels show."""

CPU_SECONDS = "cpu_seconds.json"

# ------------------------------------------------------------------------------------------------- configuration


@dataclass(frozen=True)
class WorldStage(StageConfig):
    """One stage.

    Attributes:
        mixture: Family → its share of the steps.
        rationale_from: As in ``LossConfig``.
        decoder: As in ``LossConfig``.
        visual_weight: Of the dense loss on the visual tokens.
        short_budgets: Share of the steps that think with fewer tokens, so that every budget works.
        curriculum: Whether page queries begin by saying several facts and end by saying one.
    """

    mixture: dict[str, float] = field(default_factory=dict)
    rationale_from: RationaleFrom = "thought"
    decoder: Decoder = "soft-prompt"
    visual_weight: float = 1.0
    short_budgets: float = 0.0
    curriculum: bool = False


@dataclass(frozen=True)
class WorldConfig(TrainConfig):
    """The whole run.

    Attributes:
        wear: Share of images that take a JPEG or resizing round trip.
    """

    stages: tuple[WorldStage, ...]
    wear: float = 0.4


# ------------------------------------------------------------------------------------------------- data


def mixture(config: WorldConfig, stage: WorldStage) -> DatasetDict:
    """Per family, as many numbers as it has rows in the stage; the collator draws what they stand for.

    Raises:
        InputError: If the stage mixes what is no data set.
    """
    known = [data.name for data in config.data]
    if (unknown := sorted(stage.mixture.keys() - known)) or not stage.mixture:
        raise InputError(f"the mixture of stage {stage.name!r} has {unknown or 'nothing'}; it can have {known}.")
    total, batch = sum(stage.mixture.values()), int(config.trainer["per_device_train_batch_size"])
    steps = {name: -(-cast("int", stage.steps) * share // total) for name, share in stage.mixture.items()}
    return DatasetDict({name: Dataset.from_dict({"index": range(int(n) * batch)}) for name, n in steps.items()})


def in_order(dataset: Dataset, **options: Any) -> DefaultBatchSampler:
    """Batches of consecutive rows, so that a curriculum can follow the row number."""
    return DefaultBatchSampler(cast("Any", range(len(dataset))), **options)


def wear(item: Item, rng: np.random.Generator, share: float) -> dict[str, Any]:
    """The item as the encoder takes it, a share of its pixels worn as files wear them."""
    fed: dict[str, Any] = dict(item)
    if "image" in item and rng.random() < share:
        fed["image"] = worn(item["image"], rng)
    if "video" in item:
        frames = np.stack([worn(frame, rng) for frame in item["video"]]) if rng.random() < share else item["video"]
        # A frame's time is when it appeared, which depends on the frame rate of the file.
        times = tuple(time - rng.uniform(0, 0.5) for time in sample_times(len(frames)))
        fed["video"] = VideoFrames(tuple(map(Image.fromarray, frames)), times, 0.0, CLIP_S)
    return fed


@dataclass(frozen=True)
class Cell:
    """One item of a batch: what is fed, what it shows or is, and the rationale that it has to lead to."""

    item: Item
    content: object
    rationale: str = ""


def columns_of(pairs: list[Pair], family: Family, *, retrieval: bool) -> dict[str, list[Cell]]:
    """The columns of a batch: whatever has pixels, or, for retrieval, anchor, positive and hard negatives."""
    if not retrieval:
        anchors = [
            Cell(pair.positive, pair.content, pair.positive_rationale)
            if pair.shown is None
            else Cell(pair.query, pair.shown, pair.query_rationale)
            for pair in pairs
        ]
        return {"anchor": anchors}
    columns = {
        "anchor": [Cell(pair.query, pair.shown, pair.query_rationale) for pair in pairs],
        # Every second candidate decodes its thought, and every query: decoding is the dearest part of a step.
        "positive": [
            Cell(pair.positive, pair.content, "" if i % 2 else pair.positive_rationale) for i, pair in enumerate(pairs)
        ],
    }
    if family in ANSWERS:
        columns["negative"] = [Cell({"text": answer}, answer) for answer in ANSWERS[family]]
    if family == "edit":
        # The picture as it was before the edit: the candidate that looks most like the query.
        columns["negative"] = [
            Cell({"image": pair.query["image"]}, pair.shown, "" if i % 2 else cast("Scene", pair.shown).key)
            for i, pair in enumerate(pairs[::EDITS_PER_SCENE])
        ]
    return columns


class WorldCollator(TTECollator):
    """Draws the pairs of a batch, a pure function of seed, stage and row number, and collates them.

    Each column gets ``words`` (N, 3) int64 besides: the tokens of the words in the cell of each of its visual tokens, in
    order, padded with -100. There are fewer hard negatives than rows, each of them once.

    Args:
        model: As for :class:`TTECollator`.
        config: The run.
        stage: The stage.
        rows: Family → its rows in this stage, of which the curriculum reads how far it has come.
    """

    def __init__(self, model: TTEEncoder, config: WorldConfig, stage: WorldStage, rows: dict[str, int]) -> None:
        super().__init__(model, seed=config.seed)
        self.config, self.stage, self.rows = config, stage, rows
        self.word_ids: dict[str, int] = {}

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate rows of one family."""
        family, first = features[0]["dataset_name"], features[0]["index"]
        seed = f"{self.config.seed}-{self.stage.name}-{first}"
        pairs = self._draw(family, len(features), seed, first / self.rows[family])
        columns = columns_of(pairs, family, retrieval=self.stage.contrastive_weight > 0)
        rng, pixels = rngs("wear", family, seed)
        full = self.largest_budget
        budget = rng.randrange(full) if rng.random() < self.stage.short_budgets else full
        candidates = [cell.content for name, column in columns.items() if name != "anchor" for cell in column]
        batch: dict[str, Any] = {"dataset_name": family}
        for name, column in columns.items():
            rows = [
                {
                    name: wear(cell.item, pixels, self.config.wear),
                    f"{name}_rationale": cell.rationale,
                    f"{name}_id": f"{index}" if name == "anchor" else repr(cell.content),
                }
                for index, cell in enumerate(column)
            ]
            if name == "anchor" and candidates:
                for row, pair in zip(rows, pairs, strict=True):
                    row["answers"] = [repr(content) for content in candidates if pair.accepts(content)]
            batch |= self._collate(rows, [name], budget)
            batch[f"{name}_words"] = self._words([cell.content for cell in column])
        return batch

    def _draw(self, family: Family, count: int, seed: str, progress: float) -> list[Pair]:
        if family == "page":
            detail = max(0.15, 1 - 1.25 * progress) if self.stage.curriculum else 0.15
            return [page_pair(*rngs("train", family, seed, i), "train", detail) for i in range(count)]
        return draw_pairs(family, count, seed=seed, split="train")

    def _words(self, contents: Iterable[object]) -> Tensor:
        cells = [cell or ("empty",) for shown in contents if isinstance(shown, Shown) for cell in shown.cells]
        ids = [[self._word_id(word) for word in cell] for cell in cells]
        return torch.tensor([row + [-100] * (3 - len(row)) for row in ids], dtype=torch.int64).view(-1, 3)

    def _word_id(self, word: str) -> int:
        """The one token of a word inside a sentence; every cell of every picture asks for it."""
        if word not in self.word_ids:
            ids = self.model.tokenizer(f" {word}").input_ids
            if len(ids) != 1:
                raise ValueError(f"{word!r} is {len(ids)} tokens, but every word of the world must be one")
            self.word_ids[word] = ids[0]
        return self.word_ids[word]


# ------------------------------------------------------------------------------------------------- loss


class WorldLoss(TTELoss):
    """``TTELoss``, and a dense part on the visual tokens of all columns.

    Args:
        model: As for :class:`TTELoss`.
        visual_weight: Of the dense part.
        **options: As for :class:`TTELoss`.
    """

    PARTS = (*TTELoss.PARTS, "visual")

    def __init__(self, model: TTEEncoder, *, visual_weight: float, **options: Any) -> None:
        super().__init__(model, **options)
        self.visual_weight = visual_weight
        self.visual_scale = nn.Parameter(torch.tensor(1.0))
        backbone = cast("Any", model.transformer.model)
        self.empty_id = model.tokenizer(" empty").input_ids[0]
        # No submodules of their own: the parts belong to the model, which the trainer optimises once.
        self._merger, self._embed_tokens = [backbone.visual.merger], [backbone.get_input_embeddings()]

    def forward(  # type: ignore[override]
        self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The parts of :class:`TTELoss` and ``visual``."""
        columns = [dict(column) for column in sentence_features]
        words = torch.cat([column.pop("words") for column in columns])  # (N, 3)
        # Where there are hard negatives, candidates outnumber queries. Elsewhere the other direction is a task of its own.
        self.symmetric = len(columns) == 2
        tokens: list[Tensor] = []
        hook = self._merger[0].register_forward_hook(lambda _module, _args, output: tokens.append(output))
        try:
            parts = super().forward(columns)
        finally:
            hook.remove()
        # Most cells are empty: keep one in five of them, so that they do not drown the words.
        keep = (words[:, 0] != self.empty_id) | (torch.rand(len(words)) < 0.2)  # (N,)
        visual = visual_word_nll(torch.cat(tokens)[keep], words[keep], self._embed_tokens[0], self.visual_scale)
        return parts | {"visual": self.visual_weight * visual}


# ------------------------------------------------------------------------------------------------- run


def load(name: str | Path, config: WorldConfig) -> TTEEncoder:
    """Load a checkpoint for training.

    Its patches do not overlap, so that their convolution is a matrix product, which a CPU does several times faster.
    """
    model = load_model(name, config.model)
    patches = cast("Any", model.transformer.model).visual.patch_embed
    patches.forward = lambda pixels: F.linear(pixels, patches.proj.weight.flatten(1), patches.proj.bias)
    return model


class CpuSeconds(TrainerCallback):
    """Keeps a file of the CPU seconds that went into a stage's newest checkpoint, over all its starts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, *_args: Any, **_kwargs: Any) -> None:
        """Start the clock."""
        self.before = json.loads(self.path.read_text()) if self.path.exists() else 0.0
        self.started = time.process_time()

    def on_save(self, *_args: Any, **_kwargs: Any) -> None:
        """Write it down."""
        self.path.write_text(json.dumps(round(self.before + time.process_time() - self.started, 1)))

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
    (result / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    return result


def main() -> None:
    """Read the config and run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value")
    parser.add_argument("--until", metavar="STAGE", help="stop after this stage, whose model is a reader of pixels")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    config = read_config_as(WorldConfig, arguments.config, arguments.set)
    if arguments.until not in (None, *(stage.name for stage in config.stages)):
        parser.error(f"--until {arguments.until}: the stages are {', '.join(stage.name for stage in config.stages)}")
    logger.info("%s", build(config, arguments.until))


if __name__ == "__main__":
    main()
