"""The cost of thinking: think tokens compared with none, with written rationales and with latent steps."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3VLForConditionalGeneration

from tte_retriever.bench.measurement import Measurement, interleaved, ratio
from tte_retriever.bench.models import PLUME_STEPS, described, load, load_plume
from tte_retriever.bench.workloads import draw, picture, sentence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import Qwen3VLModel

    from tte_retriever.backbones import QwenVLModel
    from tte_retriever.encoder import TTEEncoder
    from tte_retriever.methods.plume import PlumeTransformer

BUDGETS = (4, 8, 16, 32)
WRITTEN_TOKENS = 128
_TEXT_WORDS = 26
_REFERENCE_BUDGET = 8
_TOGETHER = 16


def cost(model: str, batches: tuple[int, ...], rounds: int) -> Iterator[Measurement]:
    """CPU time of a forward pass with K think tokens divided by that with none, and the ratio of floating-point operations.

    The last two rows of each shape are divided by the time of ``tte-flash`` with 8 think tokens. The first generates 128
    tokens, greedily and with a cache, before it embeds, as an explicit chain of thought does. The second takes PLUME's 8
    latent steps on the same backbone, with its longer prompt. Preprocessing is not counted.
    """
    encoder, plume = load(model).eval(), load_plume(model).eval()
    random = np.random.default_rng(0)
    name = described(model, encoder)
    items = {"text": {"text": sentence(_TEXT_WORDS, random)}, "image": {"image": picture(448, 448, random)}}
    for kind, item in items.items():
        for batch in batches:
            features = {k: encoder.preprocess([item] * batch, think_budget=k) for k in (0, *BUDGETS)}
            works: dict[str, Any] = {str(k): partial(_embed, encoder, each) for k, each in features.items()}
            latent = plume.preprocess([item] * batch)
            works["latent"] = partial(_embed, plume, latent)
            works["written"] = partial(_write_then_embed, encoder, _generator(encoder), features[0])
            timed = interleaved(works, rounds)
            shape = f"{kind} of {features[0]['input_ids'].shape[1]} tokens, batch {batch}"
            operations = {k: _operations(encoder, each) for k, each in features.items()}
            for k in BUDGETS:
                predicted = operations[k] / operations[0]
                quantity = f"K = {k} / K = 0 (operations: {predicted:.3f})"
                yield Measurement("thinking", name, shape, quantity, *ratio(timed[str(k)], timed["0"]))
            prompt = f"behind {latent['input_ids'].shape[1]} tokens"
            others = {"written": f"{WRITTEN_TOKENS} written tokens", "latent": f"{PLUME_STEPS} PLUME steps {prompt}"}
            for work, what in others.items():
                measured = ratio(timed[work], timed[str(_REFERENCE_BUDGET)])
                yield Measurement("thinking", name, shape, f"{what} / K = {_REFERENCE_BUDGET}", *measured)


def sharing(model: str, rounds: int) -> Iterator[Measurement]:
    """CPU time of a PLUME model for 16 items in one batch divided by that for each alone: in total, and of the latent steps.

    The prompts of the batch are padded to the longest. Reading prompts takes the same work in a batch and alone. A latent
    step reads all weights for one token, and takes about as long for 16.
    """
    plume = load_plume(model).eval()
    items = list(draw("mixed", _TOGETHER))
    together, alone = plume.preprocess(items), [plume.preprocess([item]) for item in items]
    timed = interleaved(
        {
            "together": partial(_embed, plume, together),
            "alone": lambda: [_embed(plume, features) for features in alone],
            "prompts together": partial(_read_prefix, plume, together),
            "prompts alone": lambda: [_read_prefix(plume, features) for features in alone],
        },
        rounds,
    )
    lengths = [features["input_ids"].shape[1] for features in alone]
    shape = f"{_TOGETHER} mixed items behind {min(lengths)} to {max(lengths)} tokens"
    name = described(model, plume)
    vectors = np.concatenate([_embed(plume, features) for features in alone])
    least = float((_embed(plume, together) * vectors).sum(1).min())
    yield Measurement("thinking", name, shape, "least cosine", least, least, least, "≥ 0.99999")
    yield Measurement("thinking", name, shape, "together / alone", *ratio(timed["together"], timed["alone"]))
    thoughts = {
        which: [a - b for a, b in zip(timed[which], timed[f"prompts {which}"], strict=True)]
        for which in ("together", "alone")
    }
    measured = ratio(thoughts["together"], thoughts["alone"])
    yield Measurement("thinking", name, shape, "thoughts together / alone", *measured, "≤ 0.25")


def _read_prefix(encoder: TTEEncoder, features: dict[str, Any]) -> object:
    with torch.inference_mode():
        return cast("PlumeTransformer", encoder.transformer).read_prefix(features)


def _embed(encoder: TTEEncoder, features: dict[str, Any]) -> np.ndarray:
    with torch.inference_mode():
        return encoder(dict(features))["sentence_embedding"].numpy()


def _generator(encoder: TTEEncoder) -> QwenVLModel:
    """The same backbone with its output head."""
    model = cast("Qwen3VLModel", encoder.transformer.model)
    generator = Qwen3VLForConditionalGeneration(model.config)
    generator.model = model
    generator.lm_head.weight = model.get_input_embeddings().weight
    return cast("QwenVLModel", generator.eval())


def _write_then_embed(encoder: TTEEncoder, generator: QwenVLModel, features: dict[str, Any]) -> None:
    counts = {"num_images_per_sample", "num_videos_per_sample", "modality"}
    inputs = {key: value for key, value in features.items() if key not in counts}
    with torch.inference_mode():
        generator.generate(
            **inputs,
            do_sample=False,
            use_cache=True,
            # One more step reads the last written token, as the embed token would.
            min_new_tokens=WRITTEN_TOKENS + 1,
            max_new_tokens=WRITTEN_TOKENS + 1,
            pad_token_id=encoder.tokenizer.pad_token_id,
        )


def _operations(encoder: TTEEncoder, features: dict[str, Any]) -> int:
    """Floating-point operations of one forward pass, counted as it runs."""
    model = cast("Qwen3VLModel", encoder.transformer.model)
    usual = model.config._attn_implementation
    model.set_attn_implementation("eager")  # the counter does not count the fused attention of a CPU
    try:
        with FlopCounterMode(display=False) as counter:
            _embed(encoder, features)
    finally:
        model.set_attn_implementation(usual)
    return counter.get_total_flops()
