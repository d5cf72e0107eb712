"""The data sets of a run; the length of each is its weight."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from datasets import Dataset, DatasetDict

from .reading import read_pairs, split_by_source
from .small_world import small_world

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tte_retriever.training.config import DataConfig

_WORLD_ROWS = 10_000  # of an epoch of the small world, which has no end


def load_data(configs: Iterable[DataConfig], *, seed: int, quarantine: Path) -> DatasetDict:
    """Read or draw all data sets; media are opened when a batch is made.

    Args:
        configs: Which, and how many rows of each.
        seed: Of the choice of rows.
        quarantine: A JSONL file to which unusable rows are appended.

    Raises:
        InputError: A file cannot be read, or has no usable row.
    """
    loaded = DatasetDict()
    for config in configs:
        dataset = _load(config, seed, quarantine)
        parts = split_by_source(dataset) if config.split and "source" in dataset.column_names else {"": dataset}
        # The trainer uses the names as module names, which must not contain dots.
        loaded |= {
            re.sub(r"[^\w-]", "_", f"{config.name}-{source}".rstrip("-")): part for source, part in parts.items()
        }
    return loaded


def _load(config: DataConfig, seed: int, quarantine: Path) -> Dataset:
    if config.format == "small-world":
        return small_world(config.path, config.rows or _WORLD_ROWS, seed=seed)
    root = config.media_root or Path(config.path).parent
    pairs = read_pairs(config.path, format=config.format, media_root=root, quarantine=quarantine)
    return take(pairs, config.rows, seed)


def take(dataset: Dataset, rows: int | None, seed: int) -> Dataset:
    """``rows`` rows: the whole data set as often as it fits, then a seeded sample without repetition."""
    if rows is None:
        return dataset
    whole, rest = divmod(rows, len(dataset))
    sample = np.random.default_rng(seed).permutation(len(dataset))[:rest]
    return dataset.select([*list(range(len(dataset))) * whole, *sorted(sample.tolist())])
