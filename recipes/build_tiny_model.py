"""Train the bundled ``tte-flash-tiny`` from scratch on the small drawn world: one command, one CPU core.

    python recipes/build_tiny_model.py --out tte_retriever/models/tte-flash-tiny

A Qwen3-VL of about 1.5 million parameters with its own byte-level vocabulary goes through four stages:
0. transcription: pixels → words with full attention, and a dense loss that names the words in every visual token;
1. warm-up: the same words, decoded from the think tokens alone;
2. joint: retrieval over seven families, with rationales decoded from the think tokens;
3. finish: the same, most of it on the families that are still hard.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import platform
import random
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from tte_retriever import TTEEncoder
from tte_retriever.evaluation.small_world import ANSWERS, CLIP_S, Clip, Family, Item, Page, Pair, Scene, draw_pairs
from tte_retriever.evaluation.small_world.drawing import worn
from tte_retriever.evaluation.small_world.tasks import EDITS_PER_SCENE, page_pair, rngs, sample_times
from tte_retriever.media import VideoFrames
from tte_retriever.methods import tte_flash
from tte_retriever.training.losses import masked_info_nce, rationale_nll, visual_word_nll
from tte_retriever.training.tiny_backbone import TinyShape, build_backbone

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

logger = logging.getLogger("build_tiny_model")

Shown: TypeAlias = Scene | Clip | Page
"""What pixels show."""

# ------------------------------------------------------------------------------------------------- configuration


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
        name: Names it in the log; seeds its order of families.
        objective: Which losses: ``transcription``, ``warm_up`` or ``joint``.
        steps: Optimiser steps.
        lr: Peak learning rate, after 100 steps of linear warm-up.
        mixture: Family → its share of the steps.
        decay_over: Steps over which the rate falls to 5 % along a cosine; ``None`` keeps the peak.
        curriculum: Whether page queries begin by saying several facts and end by saying one.
    """

    name: str
    objective: str
    steps: int
    lr: float
    mixture: dict[Family, float]
    decay_over: int | None = None
    curriculum: bool = False

    def learning_rate(self, step: int) -> float:
        """The rate of one step."""
        if step < 100:
            return self.lr * (step + 1) / 100
        if self.decay_over is None:
            return self.lr
        return self.lr * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / self.decay_over)))

    def detail(self, step: int) -> float:
        """Share of page queries that say several facts."""
        return max(0.15, 1 - 2 * step / self.decay_over) if self.curriculum and self.decay_over else 0.15


STAGES = (
    Stage("transcription", "transcription", 1200, 2e-3, {"caption": 1.0, "page": 1.0, "moment": 2.0}),
    Stage(
        "warm_up",
        "warm_up",
        700,
        1.5e-3,
        {"caption": 1.0, "question": 1.5, "edit": 1.0, "page": 1.0, "page-question": 0.5, "moment": 1.5},
    ),
    Stage(
        "joint",
        "joint",
        2000,
        1e-3,
        {
            "caption": 1.0,
            "question": 2.0,
            "edit": 1.5,
            "page": 2.0,
            "page-question": 1.0,
            "moment": 2.0,
            "moment-question": 1.0,
        },
        decay_over=3200,
        curriculum=True,
    ),
    # What is learnt by now (moments, page questions) only needs to be kept; the rest gets the time.
    Stage(
        "finish",
        "joint",
        2150,
        8e-4,
        {
            "caption": 2.0,
            "question": 4.0,
            "edit": 1.5,
            "page": 3.0,
            "page-question": 0.4,
            "moment": 0.6,
            "moment-question": 0.3,
        },
        decay_over=2150,
    ),
)


@dataclass(frozen=True)
class Config:
    """Every other choice of the run."""

    seed: int = 0
    shape: TinyShape = field(default_factory=TinyShape)
    think_tokens: int = 8
    batch: int = 48
    generation_weight: float = 1.0
    visual_weight: float = 0.5
    wear: float = 0.4  # share of images that take a JPEG or resizing round trip
    short_budget: float = 0.15  # share of joint steps that think with fewer tokens, so that every budget works
    stages: tuple[Stage, ...] = STAGES


# ------------------------------------------------------------------------------------------------- batches


def wear(item: Item, rng: np.random.Generator, share: float) -> dict[str, object]:
    """The item as the encoder takes it, a share of its pixels worn as files wear them."""
    fed: dict[str, object] = dict(item)
    if "image" in item and rng.random() < share:
        fed["image"] = worn(item["image"], rng)
    if "video" in item:
        frames = np.stack([worn(frame, rng) for frame in item["video"]]) if rng.random() < share else item["video"]
        # A frame's time is when it appeared, which depends on the frame rate of the file.
        times = tuple(time - rng.uniform(0, 0.5) for time in sample_times(len(frames)))
        fed["video"] = VideoFrames(tuple(map(Image.fromarray, frames)), times, 0.0, CLIP_S)
    return fed


def draw_batch(config: Config, family: Family, step: int, detail: float) -> list[Pair]:
    """The pairs of one step: a pure function of seed, family and step."""
    seed = f"{config.seed}-{step}"
    if family == "page":
        return [page_pair(*rngs("train", family, seed, i), "train", detail) for i in range(config.batch)]
    return draw_pairs(family, config.batch, seed=seed, split="train")


def shown_by(contents: Iterable[object]) -> list[Shown]:
    """Those contents that are pixels."""
    return [content for content in contents if isinstance(content, Scene | Clip | Page)]


class Learner:
    """The model with everything that training needs besides: scales, visual hook, tokenised rationales."""

    def __init__(self, model: TTEEncoder, config: Config) -> None:
        self.model, self.config = model, config
        self.backbone = cast("Any", model.transformer.model)
        self.tokenizer: Any = model.tokenizer
        self.embed_tokens: nn.Embedding = self.backbone.language_model.embed_tokens
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        self.visual_scale = nn.Parameter(torch.tensor(1.0))
        self.end_id = self.tokenizer.convert_tokens_to_ids("<|im_end|>")
        self.visual_tokens: list[Tensor] = []
        self.word_ids: dict[str, int] = {}
        self.backbone.visual.merger.register_forward_hook(lambda _m, _i, out: self.visual_tokens.append(out))

    def parameters(self) -> list[nn.Parameter]:
        """Everything that a stage optimises; the two scales start anew with each stage."""
        return [*self.backbone.parameters(), self.log_scale, self.visual_scale]

    def rationale_ids(self, rationales: list[str]) -> Tensor:
        """(B, L) int64, each ended by the end-of-turn token and padded with -100."""
        rows = [[*self.tokenizer(f" {text}").input_ids, self.end_id] for text in rationales]
        length = max(map(len, rows))
        return torch.tensor([row + [-100] * (length - len(row)) for row in rows])

    def encode(self, items: list[dict[str, object]], budget: int) -> tuple[Tensor, Tensor]:
        """Embeddings (B, E) and think states (B, budget, D)."""
        features = self.model.preprocess(items, think_budget=budget)
        out = self.model(features)
        states = out["token_embeddings"]  # (B, L, D)
        thinking = torch.isin(features["input_ids"], torch.tensor(self.model.thought.think_ids))  # (B, L)
        return out["sentence_embedding"], states[thinking].view(len(items), budget, states.shape[-1])

    def generation(self, think_states: Tensor, rationales: list[str]) -> Tensor:
        """NLL of rationales decoded from think states (B, K, D) alone, per token."""
        ids = self.rationale_ids(rationales)
        tokens = (ids >= 0).sum(1)  # (B,)
        return (rationale_nll(self.backbone, think_states, ids) * tokens).sum() / tokens.sum()

    def visual(self, shown: Sequence[Shown]) -> Tensor:
        """The dense loss on the visual tokens of the last forward passes, cells in the same order."""
        tokens = torch.cat(self.visual_tokens)
        cells = [cell or ("empty",) for content in shown for cell in content.cells]
        ids = [[self.word_id(word) for word in cell] for cell in cells]
        words = torch.tensor([row + [-100] * (3 - len(row)) for row in ids])  # (N, 3)
        # Most cells are empty: keep one in five of them, so that they do not drown the words.
        keep = torch.tensor([cell != ("empty",) for cell in cells]) | (torch.rand(len(cells)) < 0.2)
        return visual_word_nll(tokens[keep], words[keep], self.embed_tokens, self.visual_scale)

    def word_id(self, word: str) -> int:
        """The one token of a word inside a sentence; every cell of every picture asks for it."""
        if word not in self.word_ids:
            ids = self.tokenizer(f" {word}").input_ids
            if len(ids) != 1:
                raise ValueError(f"{word!r} is {len(ids)} tokens, but every word of the world must be one")
            self.word_ids[word] = ids[0]
        return self.word_ids[word]

    def transcription(self, pairs: list[Pair], rng: np.random.Generator) -> dict[str, Tensor]:
        """Stage 0: the listing as an ordinary answer, read with full attention."""
        turns = [
            [
                {"role": "user", "content": [{"type": kind, kind: wear(pair.positive, rng, self.config.wear)[kind]}]},
                {"role": "assistant", "content": f" {pair.positive_rationale}"},
            ]
            for pair in pairs
            for kind in pair.positive
        ]
        features = self.model.preprocess(turns, think_budget=0)
        ids = features["input_ids"]  # (B, L)
        states = self.model(features)["token_embeddings"]  # (B, L, D)
        # The answer lies between the second "<|im_start|>assistant\n" and its "<|im_end|>".
        turn = (ids == self.tokenizer.convert_tokens_to_ids("<|im_start|>")).cumsum(1) == 2  # (B, L)
        answer = turn & (turn.cumsum(1) > 3) & ((ids == self.end_id) & turn).cumsum(1).roll(1, 1).eq(0)
        logits = states[:, :-1][answer[:, 1:]] @ self.embed_tokens.weight.T  # (tokens, V)
        listing = F.cross_entropy(logits.float(), ids[:, 1:][answer[:, 1:]])
        return {"listing": listing, "visual": self.visual(shown_by(pair.content for pair in pairs))}

    def warm_up(self, pairs: list[Pair], rng: np.random.Generator) -> dict[str, Tensor]:
        """Stage 1: the rationale of whatever has pixels, from the think tokens alone."""
        items, texts, contents = [], [], []
        for pair in pairs:
            in_query = pair.shown is not None
            items.append(wear(pair.query if in_query else pair.positive, rng, self.config.wear))
            texts.append(pair.query_rationale if in_query else pair.positive_rationale)
            contents.append(pair.shown if in_query else pair.content)
        _, think = self.encode(items, self.config.think_tokens)
        return {"generation": self.generation(think, texts), "visual": self.visual(shown_by(contents))}

    def joint(self, pairs: list[Pair], rng: np.random.Generator) -> dict[str, Tensor]:
        """Stage 2: retrieval, with rationales on both sides."""
        config, full = self.config, self.config.think_tokens
        budget = int(rng.integers(0, full)) if rng.random() < config.short_budget else full
        family = pairs[0].family
        queries, query_think = self.encode([wear(pair.query, rng, config.wear) for pair in pairs], budget)
        shown = shown_by(pair.shown for pair in pairs)
        think, texts = query_think, [pair.query_rationale for pair in pairs]
        if family in ANSWERS:
            contents: list[object] = list(ANSWERS[family])
            candidates, _ = self.encode([{"text": answer} for answer in ANSWERS[family]], budget)
            positives = torch.tensor([contents.index(pair.content) for pair in pairs])
        else:
            items = [pair.positive for pair in pairs]
            contents = [pair.content for pair in pairs]
            listings = [pair.positive_rationale for pair in pairs]
            for pair in pairs[::EDITS_PER_SCENE] if family == "edit" else []:
                # The picture as it was before the edit: the candidate that looks most like the query.
                items.append({"image": pair.query["image"]})
                contents.append(pair.shown)
                listings.append(shown_by([pair.shown])[0].key)
            candidates, think_c = self.encode([wear(item, rng, config.wear) for item in items], budget)
            positives = torch.arange(len(pairs))
            # Every query decodes its thought, and every second candidate: decoding is the dearest part of a step.
            think = torch.cat([think, think_c[::2]])
            texts += listings[::2]
            shown += shown_by(contents)
        accepted = torch.tensor([[pair.accepts(content) for content in contents] for pair in pairs])  # (B, N)
        accepted[torch.arange(len(pairs)), positives] = False
        scale = self.log_scale.exp().clamp(max=100)
        # Every candidate belongs to one query: the other direction is a task of its own (image → caption).
        paired = len(queries) == len(candidates) == len(positives.unique())
        contrastive = masked_info_nce(queries, candidates, positives, accepted, scale, symmetric=paired)
        losses = {"contrastive": contrastive}
        if budget:
            losses["generation"] = config.generation_weight * self.generation(think, texts)
        losses["visual"] = config.visual_weight * self.visual(shown)
        with torch.no_grad():
            scores = (queries @ candidates.T).masked_fill(accepted, -torch.inf)
            losses["hit@1"] = (scores.argmax(1) == positives).float().mean()
        return losses


# ------------------------------------------------------------------------------------------------- stages


def run_stage(learner: Learner, stage: Stage, out: Path) -> float:
    """Train one stage and return its CPU seconds; progress goes to the log as running means per family."""
    config, number = learner.config, [each.name for each in learner.config.stages].index(stage.name)
    optimizer = torch.optim.AdamW(learner.parameters(), betas=(0.9, 0.97), weight_decay=0.05, fused=True)
    order = random.Random(f"{config.seed}-{stage.name}")
    families, weights = list(stage.mixture), list(stage.mixture.values())
    started = time.process_time()
    means: dict[str, float] = {}
    learner.model.train()
    for step in range(stage.steps):
        family = order.choices(families, weights)[0]
        pairs = draw_batch(config, family, number * 1_000_000 + step, stage.detail(step))
        learner.visual_tokens.clear()
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate(step)
        with torch.autocast("cpu", torch.bfloat16):
            losses = getattr(learner, stage.objective)(pairs, np.random.default_rng([config.seed, number, step]))
        optimizer.zero_grad()
        sum(loss for name, loss in losses.items() if name != "hit@1").backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        for name, loss in losses.items():
            key = f"{family} {name}"
            means[key] = 0.95 * means.get(key, loss.item()) + 0.05 * loss.item()
        if step % 100 == 99:
            line = "  ".join(f"{key} {value:.3f}" for key, value in sorted(means.items()))
            seconds = time.process_time() - started
            logger.info("%s %d/%d %.0f CPU s  %s", stage.name, step + 1, stage.steps, seconds, line)
        if step % 500 == 499:
            learner.model.save_pretrained(str(out), create_model_card=False)
    return time.process_time() - started


def main() -> None:
    """Build, train, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [stage.name for stage in STAGES]
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished checkpoint")
    parser.add_argument("--max-steps", type=int, help="cap on every stage, to try the recipe in a minute")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start-at", choices=names, default=names[0], help="go on from what --out already holds")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    config = Config(seed=arguments.seed)
    if arguments.max_steps is not None:
        config = replace(config, stages=tuple(replace(stage, steps=arguments.max_steps) for stage in STAGES))
    logger.info("%s", asdict(config))
    out: Path = arguments.out
    if arguments.start_at == names[0]:
        with tempfile.TemporaryDirectory() as backbone:
            build_backbone(replace(config.shape, seed=config.seed), Path(backbone))
            TTEEncoder(modules=tte_flash.build(backbone, config.think_tokens), device="cpu").save_pretrained(str(out))
    record = out / "training.json"
    resumed = arguments.start_at != names[0] and record.exists()
    cpu_seconds: dict[str, int] = json.loads(record.read_text())["cpu_seconds"] if resumed else {}
    hardware = f"{platform.machine()}, torch {torch.__version__}, one thread"
    for stage in config.stages[names.index(arguments.start_at) :]:
        model = TTEEncoder(str(out), device="cpu")
        model.transformer.model.set_attn_implementation("eager")  # bf16 SDPA backward is several times slower on a CPU
        cpu_seconds[stage.name] = round(run_stage(Learner(model, config), stage, out))
        model.save_pretrained(str(out), create_model_card=False)
        training = {"config": asdict(config), "cpu_seconds": cpu_seconds, "hardware": hardware}
        record.write_text(json.dumps(training, indent=1) + "\n")


if __name__ == "__main__":
    main()
