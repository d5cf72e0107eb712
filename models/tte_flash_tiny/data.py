"""The training data of the bundled model: pairs of the small world, drawn as they are needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from PIL import Image
from sentence_transformers.base.sampler import DefaultBatchSampler
from torch import Tensor
from torch.utils.data import SequentialSampler

from tte_retriever.errors import InputError
from tte_retriever.media import VideoFrames
from tte_retriever.small_world import ANSWERS, CLIP_S, Clip, Family, Item, Page, Pair, Scene, draw_pairs
from tte_retriever.small_world.drawing import worn
from tte_retriever.small_world.tasks import EDITS_PER_SCENE, page_pair, rngs, sample_times
from tte_retriever.training.collator import PairCollator

if TYPE_CHECKING:
    from collections.abc import Iterable

    from models.tte_flash_tiny.config import WorldConfig, WorldStage
    from tte_retriever.encoder import TTEEncoder

Shown: TypeAlias = Scene | Clip | Page
"""Content of pixels."""


def mixture(config: WorldConfig, stage: WorldStage) -> DatasetDict:
    """Row numbers of each family in a stage; the collator draws their items.

    Raises:
        InputError: The stage mixes an unknown family, or none.
    """
    known = [data.name for data in config.data]
    if (unknown := sorted(stage.mixture.keys() - known)) or not stage.mixture:
        raise InputError(f"the mixture of stage {stage.name!r} has {unknown or 'nothing'}; it can have {known}.")
    total, batch = sum(stage.mixture.values()), int(config.trainer["per_device_train_batch_size"])
    steps = {name: -(-cast("int", stage.steps) * share // total) for name, share in stage.mixture.items()}
    return DatasetDict({name: Dataset.from_dict({"index": range(int(n) * batch)}) for name, n in steps.items()})


def in_order(dataset: Dataset, **options: Any) -> DefaultBatchSampler:
    """Batches of consecutive rows, so that a curriculum can follow the row number."""
    return DefaultBatchSampler(SequentialSampler(dataset), **options)


def wear(item: Item, rng: np.random.Generator, share: float) -> dict[str, Any]:
    """The item as the encoder takes it; a share of the pixels goes through a JPEG or resizing round trip."""
    fed: dict[str, Any] = dict(item)
    if "image" in item and rng.random() < share:
        fed["image"] = worn(item["image"], rng)
    if "video" in item:
        frames = np.stack([worn(frame, rng) for frame in item["video"]]) if rng.random() < share else item["video"]
        # The time of a frame depends on the frame rate of the file.
        times = tuple(time - rng.uniform(0, 0.5) for time in sample_times(len(frames)))
        fed["video"] = VideoFrames(tuple(map(Image.fromarray, frames)), times, 0.0, CLIP_S)
    return fed


@dataclass(frozen=True)
class WorldItem:
    """One item of a batch, its content and the rationale to decode from its thought."""

    item: Item
    content: object
    rationale: str = ""


def columns_of(pairs: list[Pair], family: Family, *, retrieval: bool) -> dict[str, list[WorldItem]]:
    """The columns of a batch: anchor, positive and hard negatives for retrieval, else the items with pixels."""
    if not retrieval:
        anchors = [
            WorldItem(pair.positive, pair.content, pair.positive_rationale)
            if pair.shown is None
            else WorldItem(pair.query, pair.shown, pair.query_rationale)
            for pair in pairs
        ]
        return {"anchor": anchors}
    columns = {
        "anchor": [WorldItem(pair.query, pair.shown, pair.query_rationale) for pair in pairs],
        # Every query and every second candidate decodes its rationale: decoding is the most expensive part of a step.
        "positive": [
            WorldItem(pair.positive, pair.content, "" if i % 2 else pair.positive_rationale)
            for i, pair in enumerate(pairs)
        ],
    }
    if family in ANSWERS:
        columns["negative"] = [WorldItem({"text": answer}, answer) for answer in ANSWERS[family]]
    if family == "edit":
        # The picture before the edit is the candidate that looks most like the query.
        columns["negative"] = [
            WorldItem({"image": pair.query["image"]}, pair.shown, "" if i % 2 else cast("Scene", pair.shown).key)
            for i, pair in enumerate(pairs[::EDITS_PER_SCENE])
        ]
    return columns


class WorldCollator(PairCollator):
    """Draws the pairs of a batch from seed, stage and row number, and collates them.

    Each column also gets ``words``, int64 with three entries for each visual token: the token ids of the words drawn in its
    cell, padded with -100. Hard negatives are fewer than rows, and each of them occurs once.

    Args:
        model: As for :class:`PairCollator`.
        config: The run.
        stage: The stage.
        rows: Family → its number of rows in this stage, which sets the pace of the curriculum.
    """

    def __init__(self, model: TTEEncoder, config: WorldConfig, stage: WorldStage, rows: dict[str, int]) -> None:
        super().__init__(model)
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
        candidates = [each.content for name, column in columns.items() if name != "anchor" for each in column]
        batch: dict[str, Any] = {"dataset_name": family}
        for name, column in columns.items():
            rows = [
                {
                    name: wear(each.item, pixels, self.config.wear),
                    f"{name}_rationale": each.rationale,
                    f"{name}_id": f"{index}" if name == "anchor" else repr(each.content),
                }
                for index, each in enumerate(column)
            ]
            if name == "anchor" and candidates:
                for row, pair in zip(rows, pairs, strict=True):
                    row["answers"] = [repr(content) for content in candidates if pair.accepts(content)]
            batch |= self._collate(rows, [name], budget)
            batch[f"{name}_words"] = self._words([each.content for each in column])
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
        """The token of a word inside a sentence."""
        if word not in self.word_ids:
            ids = self.model.tokenizer(f" {word}").input_ids
            if len(ids) != 1:
                raise ValueError(f"{word!r} has {len(ids)} tokens; every word of the small world must have one")
            self.word_ids[word] = ids[0]
        return self.word_ids[word]
