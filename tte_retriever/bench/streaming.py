"""``embed`` compared with ``encode``: the same vectors in less time, and batches with little padding."""

from __future__ import annotations

import time
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from sentence_transformers import SentenceTransformer

from tte_retriever.bench.measurement import Measurement, interleaved, ratio
from tte_retriever.bench.models import described, load
from tte_retriever.bench.workloads import WORKLOADS, draw

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tte_retriever.encoder import TTEEncoder

BATCH_SIZES = (2, 4, 8, 16, 32)
DEFAULT_BATCH_SIZE = 32
BATCH_TOKENS = 1024
"""A batch of this size fits the caches of a CPU."""
_WANTED = {"texts": "≥ 1.9", "mixed": "≥ 1.8", "messages": "≥ 2.1"}


def throughput(model: str, count: int, rounds: int) -> Iterator[Measurement]:
    """CPU time of ``SentenceTransformer.encode`` divided by that of ``embed``, for each workload.

    ``encode`` is the stock method on the same modules, at its default batch size and at the best one for the timed items.
    """
    encoder = load(model)
    stock = SentenceTransformer(modules=list(encoder), device="cpu")
    for workload in WORKLOADS:
        items = list(draw(workload, count))
        stocked = [item if isinstance(item, list) else _stock_input(item) for item in items]
        works: dict[str, Any] = {
            str(size): partial(stock.encode, stocked, batch_size=size, show_progress_bar=False) for size in BATCH_SIZES
        }
        works["embed"] = lambda items=items: list(encoder.embed(items, batch_tokens=BATCH_TOKENS))
        timed = interleaved(works, rounds)
        ours = timed.pop("embed")
        best = min(timed, key=lambda size: median(timed[size]))
        shape = f"{count} {workload}, {_lengths(encoder, items)}"
        name = described(model, encoder)
        default = timed[str(DEFAULT_BATCH_SIZE)]
        yield Measurement(
            "streaming", name, shape, "encode, batch 32 / embed", *ratio(default, ours), _WANTED[workload]
        )
        yield Measurement(
            "streaming", name, shape, f"encode, best batch ({best}) / embed", *ratio(timed[best], ours), "≥ 1.0"
        )
        vectors, expected = np.stack(works["embed"]()), works["8"]()
        cosine = float((vectors * expected).sum(1).min())
        yield Measurement("streaming", name, shape, "least cosine", cosine, cosine, cosine, "≥ 0.99999")


def _stock_input(item: dict[str, Any]) -> Any:
    """An item in the form that ``encode`` takes: without a dict if it has one part."""
    return next(iter(item.values())) if len(item) == 1 else item


def _lengths(encoder: TTEEncoder, items: list[Any]) -> str:
    lengths = [encoder.preprocess([item])["input_ids"].shape[1] for item in items]
    return f"{min(lengths)} to {max(lengths)} tokens"


def speed(encoder: TTEEncoder, model: str, count: int, rounds: int) -> Iterator[Measurement]:
    """Items per second of ``embed``, for each workload, by the wall clock: with the model, device and options of a user."""
    for workload in WORKLOADS:
        items = list(draw(workload, count))
        works = {"embed": lambda items=items: list(encoder.embed(items))}
        seconds = interleaved(works, rounds, clock=time.perf_counter)["embed"]
        rates = [count / each for each in seconds]
        shape = f"{count} {workload}, {_lengths(encoder, items)}, {encoder.device}"
        name = described(model, encoder)
        yield Measurement("speed", name, shape, "items per second", median(rates), min(rates), max(rates))


def packing(model: str, count: int) -> Iterator[Measurement]:
    """Padded tokens divided by real ones, and the largest batch, measured at the model."""
    encoder = load(model)
    name = described(model, encoder)
    for workload in ("mixed", "messages"):
        items = list(draw(workload, count))
        for way, wanted, work in (
            ("encode, batch 32", ("", ""), lambda items=items: encoder.encode(items)),
            (
                f"embed, {BATCH_TOKENS} tokens",
                ("≤ 1.05", f"≤ {BATCH_TOKENS}"),
                lambda items=items: list(encoder.embed(items, batch_tokens=BATCH_TOKENS)),
            ),
        ):
            batches: list[tuple[int, int]] = []  # padded and real tokens

            def seen(_module: Any, inputs: tuple[dict[str, Any]], batches: list[tuple[int, int]] = batches) -> None:
                mask = inputs[0]["attention_mask"]
                batches.append((mask.numel(), int(mask.sum())))

            with encoder.transformer.register_forward_pre_hook(seen):
                work()
            padded, real = map(sum, zip(*batches, strict=True))
            peak = max(tokens for tokens, _ in batches)
            shape = f"{count} {workload}, {way}"
            waste = padded / real
            yield Measurement("packing", name, shape, "padded / real tokens", waste, waste, waste, wanted[0])
            yield Measurement("packing", name, shape, "most tokens in a batch", peak, peak, peak, wanted[1])
