"""Items as chats, the only form that a Qwen-VL processor gets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tte_retriever.errors import InputError, MediaError
from tte_retriever.tokens import escape_control_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image
    from sentence_transformers.base.modules.transformer import ProcessingKwargs

    from tte_retriever.media import TypedInput, VideoFrames

Chat: TypeAlias = list[dict[str, Any]]
"""Messages with a ``role`` and a ``content``: a ``str``, or a list of parts of type ``text``, ``image`` or ``video``."""

_ROLES = ("system", "user", "assistant", "tool")

_MAX_ASPECT_RATIO = 200
"""The limit of the Qwen-VL processors."""


def as_chat(item: TypedInput, tokenizer: Any) -> Chat:
    """Turn the result of :func:`tte_retriever.media.typed_input` into a chat with escaped control tokens.

    Raises:
        MediaError: A picture with an aspect ratio that no processor takes.
    """
    if "message" in item:
        chat = [dict(message) for message in item["message"]]
        _check_roles([message["role"] for message in chat])
    else:
        values = [(kind, each) for kind, value in item.items() for each in _listed(value)]
        chat = [{"role": "user", "content": [{"type": kind, kind: value} for kind, value in values]}]
    for message in chat:
        if isinstance(message["content"], str):
            message["content"] = escape_control_tokens(message["content"], tokenizer)
    for part in parts([chat]):
        if part["type"] == "text":
            part["text"] = escape_control_tokens(part["text"], tokenizer)
        else:
            _check_shape(part)
    return chat


def _check_roles(roles: Sequence[str]) -> None:
    if unknown := set(roles) - set(_ROLES):
        raise InputError(f"A chat has a message of the role {min(unknown)!r}; give one of {', '.join(_ROLES)}.")
    if roles[-1] not in ("user", "tool"):
        raise InputError(
            f"A chat ends with a message of the role {roles[-1]!r}; its last message has to be the user's."
        )


def parts(chats: Sequence[Chat]) -> list[dict[str, Any]]:
    """All content parts of all chats, in the order of the processor."""
    contents = [message["content"] for chat in chats for message in chat]
    return [part for content in contents if isinstance(content, list) for part in content]


def own_budget(chat: Chat, default: int | None) -> int | None:
    """The think budget in the last message of a chat, else ``default``.

    Raises:
        InputError: If another message has a think budget.
    """
    if any("think_budget" in message for message in chat[:-1]):
        raise InputError(
            f"A chat of {len(chat)} messages has a think_budget before its last message; set it in the last message."
        )
    return chat[-1].get("think_budget", default)


def with_system_message(chats: Sequence[Chat], prompt: str | None) -> list[Chat]:
    """Chats that begin with the prompt, except those with a system message of their own.

    Stock sentence-transformers puts the prompt before the system message of a chat.
    """
    if not prompt:
        return [*chats]
    message = {"role": "system", "content": [{"type": "text", "text": prompt}]}
    return [chat if any(each["role"] == "system" for each in chat) else [message, *chat] for chat in chats]


def refuse_ignored(options: ProcessingKwargs) -> None:
    """Check that processor options do not include what is decided before the processor runs.

    Raises:
        InputError: If they include the choice of video frames or a think budget.
    """
    for key, value in options.get("video", {}).items():
        if key in ("fps", "num_frames", "video_metadata") or (key == "do_sample_frames" and value):
            raise InputError(
                f'processing_kwargs["video"] has {key!r}, but frames are sampled by video_sampling before the processor runs: '
                "set fps, min_frames and max_frames of processor.video_processor, or give the frames as "
                '{"video": {"array": …, "video_metadata": …}}.'
            )
    if "think_budget" in options.get("chat_template", {}):
        raise InputError(
            'processing_kwargs["chat_template"] has a think_budget; give it as think_budget=…, or in the last message of a '
            "chat."
        )


def image_size(processor: Any, max_pixels: int | None) -> dict[str, int]:
    """The ``size`` of the image processor for images of at most ``max_pixels``; empty without a limit.

    Raises:
        InputError: The limit is smaller than the smallest image of the model.
    """
    if max_pixels is None:
        return {}
    least = int(processor.image_processor.size["shortest_edge"])
    if isinstance(max_pixels, bool) or not isinstance(max_pixels, (int, np.integer)) or max_pixels < least:
        raise InputError(f"max_pixels is {max_pixels!r}; this model takes images of {least} pixels or more.")
    return {"shortest_edge": least, "longest_edge": int(max_pixels)}


def take_metadata(part: dict[str, Any]) -> dict[str, Any]:
    """Replace the frames of a video part by their array, and return the metadata with their times.

    Times are relative to the start of the frames, so a moment gives the same vector at any place of its video. The
    processor gets them as frame numbers of a video with 1000 frames per second and the true length.
    """
    video: VideoFrames = part["video"]
    frames, times = list(video.frames), [max(time - video.start_s, 0.0) for time in video.timestamps_s]
    if len(frames) == 1:  # one temporal patch holds two frames
        frames, times = frames * 2, times * 2
    part["video"] = np.stack([np.asarray(frame) for frame in frames])  # (T, H, W, 3) uint8
    length = max(round(1000 * (video.end_s - video.start_s)), 1)
    return {"fps": 1000.0, "total_num_frames": length, "frames_indices": [round(1000 * time) for time in times]}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _check_shape(part: dict[str, Any]) -> None:
    image: Image.Image | None = part.get("image") or (part["video"].frames[0] if "video" in part else None)
    if image is not None and max(image.size) > _MAX_ASPECT_RATIO * min(image.size):
        raise MediaError(
            f"The picture is {image.width} x {image.height} px; the model takes aspect ratios up to "
            f"{_MAX_ASPECT_RATIO}. Crop it first.",
            "unsupported",
        )
