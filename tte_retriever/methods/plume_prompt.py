"""PLUME's prompt: the chat template around an item, and the sizes of its pictures."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tte_retriever.errors import CheckpointError
from tte_retriever.tokens import REFUSE_ASSISTANT_TURN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase

PLUME_TOKENS = ("<gen_emb>", "<disc_emb>", "<bot>", "<eot>", "<ct>")
"""Embed token, anchor, begin and end of the latent steps, and the token of a step in training texts."""

INSTRUCTION = (
    "Represent the above input text, images, videos, or any combination of the three as embeddings. First output the "
    "thinking process in <think> </think> tags and then summarize the entire input in a word or sentence. Finally, use "
    "the <gen_emb> tag to represent the entire input."
)
"""The same for queries and documents."""

_LAST_MESSAGE = """\
{%- set said = messages[-1].content -%}
{%- set parts = [{'type': 'text', 'text': said}] if said is string else said -%}
{%- set media = parts | selectattr('text', 'undefined') | list -%}
{%- set text = parts | selectattr('text', 'defined') | map(attribute='text') | join(' ') | trim -%}
{%- set text = text or ('' if media else '  ') -%}
{%- set question = {'type': 'text', 'text': text ~ QUESTION} -%}
{%- set messages = messages[:-1] + [{'role': messages[-1].role, 'content': media + [question]}] -%}
{%- set add_generation_prompt = false -%}
"""
"""Media come first, whatever their order; an empty item is two spaces."""


def check_plume_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise if a tokenizer lacks one of :data:`PLUME_TOKENS`."""
    added = tokenizer.get_added_vocab()
    if lacking := [mark for mark in PLUME_TOKENS if mark not in added]:
        raise CheckpointError(
            f"The tokenizer lacks {', '.join(lacking)}; PLUME needs {', '.join(PLUME_TOKENS)}. Give the folder in which its "
            "tokenizer was saved with its weights."
        )


def add_plume_prompt(template: str, prefix: str, instruction: str = INSTRUCTION) -> str:
    """Make a chat template append PLUME's instruction to the last message and open the assistant turn.

    Args:
        template: Chat template of the backbone.
        prefix: Start of the assistant turn.
        instruction: Text after ``<disc_emb>``; it can be empty.
    """
    question = json.dumps(f"\n<disc_emb>\n{instruction}".rstrip("\n"))
    opening = json.dumps(f"<|im_start|>assistant\n{prefix}")
    return f"{REFUSE_ASSISTANT_TURN}{_LAST_MESSAGE.replace('QUESTION', question)}{template.rstrip(chr(10))}{{{{- {opening} }}}}"


def prepare_chat(
    chat: Sequence[dict[str, Any]],
    *,
    blank: bool,
    first_image_only: bool,
    stages: Sequence[tuple[int, int]],
    factor: int,
) -> list[dict[str, Any]]:
    """A chat with the pictures that PLUME reads.

    Args:
        chat: Messages with decoded media.
        blank: Whether a white picture is added to an item of text alone.
        first_image_only: Whether images after the first are left out.
        stages: Smallest and largest number of pixels of each resize, in order.
        factor: Sides become multiples of it.
    """
    messages = [{**message, "content": [dict(part) for part in _content(message)]} for message in chat]
    if first_image_only:
        images = [part for message in messages for part in message["content"] if part["type"] == "image"]
        for message in messages:
            message["content"] = [part for part in message["content"] if not any(part is each for each in images[1:])]
    parts = [part for message in messages for part in message["content"]]
    if blank and all(part["type"] == "text" for part in parts) and any(part["text"].strip() for part in parts):
        parts.append({"type": "image", "image": Image.new("RGB", (28, 28), "white")})
        messages[-1]["content"].append(parts[-1])
    for part in parts:
        if part["type"] == "image":
            part["image"] = _resized(part["image"], stages, factor)
        elif part["type"] == "video" and stages:
            frames = [each if isinstance(each, Image.Image) else Image.fromarray(each) for each in part["video"]]
            part["video"] = np.stack([np.asarray(_resized(frame, stages, factor)) for frame in frames])  # (T, H, W, 3)
    return messages


def _content(message: dict[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _resized(image: Image.Image, stages: Sequence[tuple[int, int]], factor: int) -> Image.Image:
    for fewest, most in stages:
        size = _fitted(image.size, factor, fewest, most)
        if size != image.size:
            image = image.resize(size, Image.Resampling.BICUBIC)
    return image


def _fitted(size: tuple[int, int], factor: int, fewest: int, most: int) -> tuple[int, int]:
    """Width and height by the rule of Qwen-VL. Unlike in transformers, no side is rounded to 0."""
    fitted = [max(factor, round(side / factor) * factor) for side in size]
    pixels = math.prod(size)
    if math.prod(fitted) > most:
        shrink = math.sqrt(pixels / most)
        fitted = [max(factor, math.floor(side / shrink / factor) * factor) for side in size]
    elif math.prod(fitted) < fewest:
        grow = math.sqrt(fewest / pixels)
        fitted = [math.ceil(side * grow / factor) * factor for side in size]
    return fitted[0], fitted[1]
