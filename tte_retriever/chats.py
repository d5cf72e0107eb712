"""Items as chats, the one form in which a Qwen-VL processor meets them."""

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
"""Messages, each with a ``role`` and a ``content``: a ``str``, or parts of the types ``text``, ``image`` and ``video``."""

_MAX_ASPECT_RATIO = 200
"""The Qwen-VL processors refuse anything longer and thinner."""


def as_chat(item: TypedInput, tokenizer: Any) -> Chat:
    """What :func:`tte_retriever.media.typed_input` returned, as a chat in which control tokens that are spelled out are text.

    Raises:
        MediaError: A picture that no processor takes.
    """
    if "message" in item:
        chat = [dict(message) for message in item["message"]]
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


def parts(chats: Sequence[Chat]) -> list[dict[str, Any]]:
    """All content parts of all chats, in the order in which the processor meets them."""
    return [
        part
        for chat in chats
        for message in chat
        if isinstance(message["content"], list)
        for part in message["content"]
    ]


def own_budget(chat: Chat, default: int | None) -> int | None:
    """The think budget that the last message of a chat gives, behind which the thought comes.

    Raises:
        InputError: If another message gives one.
    """
    if any("think_budget" in message for message in chat[:-1]):
        raise InputError(
            f"One of {len(chat)} messages of a chat has a think_budget and is not the last; the last message carries it."
        )
    return chat[-1].get("think_budget", default)


def refuse_ignored(options: ProcessingKwargs) -> None:
    """See that a processor is not told what is decided before it sees an item.

    Raises:
        InputError: If it is.
    """
    for key, value in options.get("video", {}).items():
        if key in ("fps", "num_frames", "video_metadata") or (key == "do_sample_frames" and value):
            raise InputError(
                f'processing_kwargs["video"] has {key!r}, but frames are taken before the processor sees them, as '
                "video_sampling says: set fps, min_frames and max_frames of processor.video_processor, or give the frames "
                'that you want, {"video": {"array": …, "video_metadata": …}}.'
            )
    if "think_budget" in options.get("chat_template", {}):
        raise InputError(
            'processing_kwargs["chat_template"] has a think_budget; give it as think_budget=…, or on the last message of a '
            "chat."
        )


def take_metadata(part: dict[str, Any]) -> dict[str, Any]:
    """Replace the frames of a video part by their array, and give the times that belong to them.

    Times count from the start of the stretch, so that a moment looks the same wherever it stands in its video; the
    processor knows them as frame numbers of a thousand-frames-a-second video, whose length tells it how many of them
    there are a second.
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
