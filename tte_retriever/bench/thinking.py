"""What thinking costs: think tokens against none, and against writing the thought out."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3VLForConditionalGeneration

from tte_retriever.bench.measurement import Measurement, interleaved, ratio
from tte_retriever.bench.models import described, load
from tte_retriever.bench.workloads import picture, sentence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import Qwen3VLModel

    from tte_retriever.encoder import TTEEncoder

BUDGETS = (4, 8, 16, 32)
WRITTEN_TOKENS = 128
_TEXT_WORDS = 26
_REFERENCE_BUDGET = 8


def cost(model: str, batches: tuple[int, ...], rounds: int) -> Iterator[Measurement]:
    """CPU time of a forward pass with K think tokens over one with none, beside the ratio of floating-point operations.

    The last row of each shape generates 128 tokens, greedily and with a cache, before it embeds: what an explicit chain
    of thought would cost, over ``tte-flash`` with 8 think tokens. Preprocessing is not counted on either side.
    """
    encoder = load(model)
    encoder.eval()
    random = np.random.default_rng(0)
    name = described(model, encoder)
    items = {"text": {"text": sentence(_TEXT_WORDS, random)}, "image": {"image": picture(448, 448, random)}}
    for kind, item in items.items():
        for batch in batches:
            features = {k: encoder.preprocess([item] * batch, think_budget=k) for k in (0, *BUDGETS)}
            works: dict[str, Any] = {str(k): partial(_embed, encoder, each) for k, each in features.items()}
            works["written"] = partial(_write_then_embed, encoder, _generator(encoder), features[0])
            timed = interleaved(works, rounds)
            shape = f"{kind} of {features[0]['input_ids'].shape[1]} tokens, batch {batch}"
            operations = {k: _operations(encoder, each) for k, each in features.items()}
            for k in BUDGETS:
                predicted = operations[k] / operations[0]
                quantity = f"K = {k} / K = 0 (operations: {predicted:.3f})"
                yield Measurement("thinking", name, shape, quantity, *ratio(timed[str(k)], timed["0"]))
            quantity = f"{WRITTEN_TOKENS} written tokens / K = {_REFERENCE_BUDGET}"
            measured = ratio(timed["written"], timed[str(_REFERENCE_BUDGET)])
            yield Measurement("thinking", name, shape, quantity, *measured)


def _embed(encoder: TTEEncoder, features: dict[str, Any]) -> None:
    with torch.inference_mode():
        encoder(dict(features))


def _generator(encoder: TTEEncoder) -> Qwen3VLForConditionalGeneration:
    """The same backbone with its output head."""
    model = cast("Qwen3VLModel", encoder.transformer.model)
    generator = Qwen3VLForConditionalGeneration(model.config)
    generator.model = model
    generator.lm_head.weight = model.get_input_embeddings().weight
    return generator.eval()


def _write_then_embed(
    encoder: TTEEncoder, generator: Qwen3VLForConditionalGeneration, features: dict[str, Any]
) -> None:
    counts = {"num_images_per_sample", "num_videos_per_sample", "modality"}
    inputs = {key: value for key, value in features.items() if key not in counts}
    with torch.inference_mode():
        cast("Any", generator).generate(
            **inputs,
            do_sample=False,
            use_cache=True,
            # One more step reads the last written token and stands for the embed token.
            min_new_tokens=WRITTEN_TOKENS + 1,
            max_new_tokens=WRITTEN_TOKENS + 1,
            pad_token_id=encoder.tokenizer.pad_token_id,
        )


def _operations(encoder: TTEEncoder, features: dict[str, Any]) -> int:
    """Floating-point operations of one forward pass, counted as it runs."""
    model = cast("Qwen3VLModel", encoder.transformer.model)
    usual = model.config._attn_implementation
    model.set_attn_implementation("eager")  # the counter does not know the fused attention of a CPU
    try:
        with FlopCounterMode(display=False) as counter:
            _embed(encoder, features)
    finally:
        model.set_attn_implementation(usual)
    return counter.get_total_flops()
