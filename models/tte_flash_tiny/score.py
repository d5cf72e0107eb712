"""Score ``tte-flash-tiny`` on seeds that training never drew, and write its model card.

    python -m models.tte_flash_tiny.score runs/bundled-model/model

The folder must have the ``training.json`` that ``build.py`` writes.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import torch

from tte_retriever import TTEEncoder
from tte_retriever.atomic import atomic_write_text
from tte_retriever.methods import tte_flash
from tte_retriever.small_world import FAMILIES, Split
from tte_retriever.small_world.backbone import TinyShape, build_backbone
from tte_retriever.small_world.scoring import Score, score_family

logger = logging.getLogger("tte_flash_tiny")

TEST_SEEDS = (101, 102, 103)
BUDGETS = (0, 2, 4, 8)


def pooled(
    encoder: TTEEncoder, split: Split, seeds: tuple[int, ...], queries: int, **encode_kwargs: Any
) -> dict[str, Score]:
    """Scores per family and kind, summed over seeds."""
    total: dict[str, Score] = {}
    for family in FAMILIES:
        for seed in seeds:
            for score in score_family(encoder, family, split=split, seed=seed, queries=queries, **encode_kwargs):
                old = total.get(score.name)
                right, asked = (old.right, old.asked) if old else (0, 0)
                chance = ((old.chance * asked if old else 0.0) + score.chance * score.asked) / (asked + score.asked)
                total[score.name] = Score(score.name, split, right + score.right, asked + score.asked, chance)
        logger.info("%s %s %.3f", split, family, total[family].hit_rate)
    return total


def cell(score: Score) -> str:
    """``.91 (.89 to .93)``."""
    low, high = score.interval
    return f"{score.hit_rate:.2f} ({low:.2f} to {high:.2f})"


def untrained_twin(shape: TinyShape, think_tokens: int) -> TTEEncoder:
    """The same architecture with its initial weights."""
    with tempfile.TemporaryDirectory() as folder:
        build_backbone(shape, Path(folder))
        return TTEEncoder(modules=tte_flash.build(folder, think_tokens), device="cpu")


def main() -> None:
    """Score, then write ``scores.json`` and ``README.md`` into the model's folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--queries", type=int, default=200, help="number for each family and seed; default: 200")
    arguments = parser.parse_args()
    folder: Path = arguments.model
    queries: int = arguments.queries
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    training = json.loads((folder / "training.json").read_text())
    encoder = TTEEncoder(str(folder), device="cpu")
    test = pooled(encoder, "test", TEST_SEEDS, queries)
    held_out = pooled(encoder, "held-out", TEST_SEEDS, queries)
    config = training["config"]
    twin = untrained_twin(TinyShape(seed=config["seed"]), config["model"]["think_tokens"])
    untrained = pooled(twin, "test", TEST_SEEDS[:1], queries)
    budgets = {budget: pooled(encoder, "test", TEST_SEEDS[:1], queries, think_budget=budget) for budget in BUDGETS}

    rows = [
        f"| {name} | {cell(test[name])} | {cell(held_out[name]) if name in held_out else '–'} "
        f"| {untrained[name].hit_rate:.2f} | {test[name].chance:.3f} | {test[name].asked} |"
        for name in sorted(test)
        if name in untrained
    ]
    budget_rows = [
        f"| {family} | " + " | ".join(f"{budgets[budget][family].hit_rate:.2f}" for budget in BUDGETS) + " |"
        for family in FAMILIES
    ]
    scores = {name: [score.right, score.asked, score.chance] for name, score in test.items()}
    scores_held_out = {name: [score.right, score.asked, score.chance] for name, score in held_out.items()}
    payload = {"seeds": TEST_SEEDS, "queries": queries, "test": scores, "held-out": scores_held_out}
    atomic_write_text(folder / "scores.json", json.dumps(payload, indent=1) + "\n")
    minutes = {stage: seconds / 60 for stage, seconds in training["cpu_seconds"].items()}
    card = CARD.format(
        parameters=sum(parameter.numel() for parameter in encoder.parameters()) / 1e6,
        megabytes=(folder / "model.safetensors").stat().st_size / 1e6,
        minutes=sum(minutes.values()),
        stages=", ".join(f"{stage} {value:.0f}" for stage, value in minutes.items()),
        hardware=training["hardware"],
        queries=queries,
        seeds=", ".join(map(str, TEST_SEEDS)),
        rows="\n".join(rows),
        budgets=" | ".join(map(str, BUDGETS)),
        budget_rows="\n".join(budget_rows),
        rule="|---" * (len(BUDGETS) + 1) + "|",
    )
    atomic_write_text(folder / "README.md", card)


CARD = """---
license: apache-2.0
library_name: sentence-transformers
pipeline_tag: feature-extraction
tags: [sentence-transformers, multimodal, think-tokens]
---
# tte-flash-tiny

A real Qwen3-VL architecture with {parameters:.2f} M parameters ({megabytes:.1f} MB, fp32), trained from scratch on a small
procedurally drawn world. It makes the demo, the tests and the documentation of `tte_retriever` run on a machine with no
model hub. **It was trained on that world and nothing else**: on photographs, real documents or free English its
vectors mean little. Use it to try the software, not to search your files.

```python
from sentence_transformers import SentenceTransformer
import tte_retriever

model = SentenceTransformer(tte_retriever.model_path("tte-flash-tiny"))
vectors = model.encode(["a big red circle in the north", "a small blue ring in the center"])  # (2, 128)
```

## What it was trained on
Scenes of up to five things on a three-by-three grid (six shapes, six colours, two sizes, nine compass places), six-second
clips in which one thing does two things in turn, and pages with a title, "key over value" fields and coloured icons. One
cell is one visual token, so a fact is easy and a relation between two cells is hard.

## How it thinks
Eight think tokens and an embed token are appended by the chat template; the embedding is the last hidden state of the
embed token. `think_budget` (0 to 8) is a template variable. In training a rationale had to be decoded from the think
tokens alone. What such a decoding says is a reading of the vectors, not an explanation of them.

## How it was trained
`models/tte_flash_tiny/build.py`, four stages of the SentenceTransformer trainer, one CPU thread, {minutes:.0f} CPU minutes in all ({stages}); {hardware}.
Transcription of scenes, clips and pages with a dense loss on the visual tokens; the same through the think tokens; then
retrieval over seven families with rationales. The page queries follow a curriculum from many facts to one.

## Scores
Hit@1 on content that training cannot have drawn (a hash decides which split a scene, clip or page belongs to), seeds
{seeds}, {queries} queries per family and seed, with 95 % Wilson intervals over the pooled queries. Questions are ranked over every
possible answer (28, 20 or 14), everything else over the {queries} candidates of its seed, edits over a
quarter more: all results and all unedited pictures. "Held-out": every item shows a combination of shape and colour, or key and value, that training never shows.

| family / kind | test | held-out combinations | untrained | chance | queries |
|---|---|---|---|---|---|
{rows}

Where a row is near chance, the model cannot do it, and no document of this project claims that it can.

### By think budget (hit@1, test, one seed)
| family | {budgets} |
{rule}
{budget_rows}
"""


if __name__ == "__main__":
    main()
