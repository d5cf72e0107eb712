"""An untrained Qwen3-VL of about a million parameters, with its own vocabulary, for the small world."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer, Qwen2VLImageProcessor, Qwen3VLConfig, Qwen3VLModel, Qwen3VLProcessor
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from tte_retriever.atomic import atomic_write
from tte_retriever.errors import InputError
from tte_retriever.small_world import ANSWERS, FAMILIES, draw_pairs

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class TinyShape:
    """Sizes of the backbone.

    Attributes:
        seed: Seed of the initial weights.
        width: Hidden size of the language model, a multiple of the head size 32.
        layers: Number of layers of the language model.
        vision_width: Hidden size of the vision tower.
        vision_layers: Number of layers of the vision tower.
        vocabulary: Rows of the embedding matrix.
        reserved_tokens: Rows that are free for think and embed tokens.
    """

    seed: int = 0
    width: int = 128
    layers: int = 3
    vision_width: int = 96
    vision_layers: int = 2
    vocabulary: int = 1024
    reserved_tokens: int = 9


SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
)
CHAT_TEMPLATE = """{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}{{- message.content -}}{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' or 'image' in part -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part.type == 'video' or 'video' in part -%}{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- elif 'text' in part -%}{{- part.text -}}{%- endif -%}
{%- endfor -%}{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""


def corpus() -> list[str]:
    """Texts with all words of the small world and of the chat template."""
    pairs = [pair for family in FAMILIES for pair in draw_pairs(family, 3000, seed="corpus", split="train")]
    texts = [pair.query["text"] for pair in pairs if "text" in pair.query]
    texts += [text for pair in pairs for text in (pair.query_rationale, pair.positive_rationale)]
    answers = [answer for bank in ANSWERS.values() for answer in bank] * 50
    return texts + answers + [f" {answer}" for answer in answers] + [" empty", "user\n", "assistant\n"] * 50


def build_tokenizer(shape: TinyShape) -> Qwen2Tokenizer:
    """A byte-level BPE in which every word of the world is one token."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=shape.vocabulary - len(SPECIAL_TOKENS) - shape.reserved_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus(), trainer)
    model = json.loads(bpe.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(merge) for merge in model["merges"]],  # type: ignore[misc]  # the annotation lags behind
        pad_token="<|endoftext|>",  # noqa: S106
        model_max_length=1024,
    )
    tokenizer.add_tokens(list(SPECIAL_TOKENS), special_tokens=True)
    return tokenizer


def build_backbone(shape: TinyShape, folder: Path) -> None:
    """Write an untrained Qwen3-VL checkpoint: model, tokenizer, processors, chat template.

    Args:
        shape: Sizes and seed; the same shape gives the same weights.
        folder: Where to write it.
    """
    tokenizer = build_tokenizer(shape)
    grid = {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2}
    normalise = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            size={"shortest_edge": 32 * 32, "longest_edge": 128 * 128}, **grid, **normalise
        ),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(
            size={"shortest_edge": 2 * 32 * 32, "longest_edge": 6 * 96 * 96},
            cap_pixels_per_frame=False,
            fps=1,
            min_frames=6,
            max_frames=6,
            **grid,
            **normalise,
        ),
        chat_template=CHAT_TEMPLATE,
    )
    ids = tokenizer.get_added_vocab()
    heads = shape.width // 32
    # With so few frequencies, the usual theta would leave the width axis of mrope almost constant.
    rope = {"rope_type": "default", "rope_theta": 1000.0, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
    torch.manual_seed(shape.seed)
    model = Qwen3VLModel(
        Qwen3VLConfig(
            text_config={
                "vocab_size": shape.vocabulary,
                "hidden_size": shape.width,
                "intermediate_size": 3 * shape.width,
                "num_hidden_layers": shape.layers,
                "num_attention_heads": heads,
                "num_key_value_heads": heads,
                "head_dim": 32,
                "max_position_embeddings": 1024,
                "rope_parameters": rope,
                "tie_word_embeddings": True,
            },
            vision_config={
                "depth": shape.vision_layers,
                "hidden_size": shape.vision_width,
                "intermediate_size": 3 * shape.vision_width,
                "num_heads": 4,
                "out_hidden_size": shape.width,
                "num_position_embeddings": 64,
                "deepstack_visual_indexes": [],
            },
            image_token_id=ids["<|image_pad|>"],
            video_token_id=ids["<|video_pad|>"],
            vision_start_token_id=ids["<|vision_start|>"],
            vision_end_token_id=ids["<|vision_end|>"],
            tie_word_embeddings=True,
        )
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def bare_backbone(checkpoint: str | Path, folder: Path) -> None:
    """Write the trained backbone of a checkpoint of the small world, without think and embed tokens.

    Args:
        checkpoint: A checkpoint that was built on ``tiny-backbone``.
        folder: Where to write it; it appears when it is complete.

    Raises:
        InputError: The checkpoint does not exist or is of another architecture.
    """
    try:
        trained = Qwen3VLModel.from_pretrained(checkpoint)
    except OSError as error:
        raise InputError(f"{str(checkpoint)!r} is not a checkpoint of the small world: {error}") from error
    config = trained.config.to_dict()
    text, vision = config["text_config"], config["vision_config"]
    shape = TinyShape(
        width=text["hidden_size"],
        layers=text["num_hidden_layers"],
        vision_width=vision["hidden_size"],
        vision_layers=vision["depth"],
        vocabulary=text["vocab_size"],
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder) as draft:
        build_backbone(shape, draft)
        trained.save_pretrained(draft)
