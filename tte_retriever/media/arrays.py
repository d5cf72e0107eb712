"""Convert decoded media of other libraries: torch tensors, and frames with ``video_metadata``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tte_retriever.errors import InputError
from tte_retriever.media.video import VideoFrames


def as_array(value: Any) -> Any:
    """Convert a torch tensor (…, C, H, W) to an array (…, H, W, C); other values are returned unchanged."""
    if not (hasattr(value, "detach") and hasattr(value, "is_floating_point")):  # recognised without importing torch
        return value
    tensor = value.detach().cpu()
    array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()  # NumPy has no bfloat16
    return np.moveaxis(array, -3, -1) if array.ndim > 2 else array


def as_frames(video: Any) -> Any:
    """Convert a decoded video to something that :func:`load_video` takes.

    Args:
        video: A tensor (T, C, H, W), a list of tensors (C, H, W), or the dict of sentence-transformers, ``{"array":
            frames, "video_metadata": {"fps": …, "frames_indices": […], "total_num_frames": …}}``. Without ``fps`` the
            frames get no times here; without ``total_num_frames`` the video ends with the last frame. Other values are
            returned unchanged.

    Raises:
        InputError: The metadata does not fit the frames.
    """
    if isinstance(video, list):
        return [as_array(frame) for frame in video]
    if not isinstance(video, Mapping):
        return as_array(video)
    metadata = video.get("video_metadata") or {}
    if "array" not in video or set(video) - {"array", "video_metadata"} or not isinstance(metadata, Mapping):
        raise InputError(
            f'a dict with the keys {sorted(map(str, video))} was given as a video; the keys are "array" and '
            '"video_metadata", which is a dict'
        )
    frames = as_frames(video["array"])
    if metadata.get("fps") is None or not isinstance(frames, (list, np.ndarray)) or not len(frames):
        return frames
    fps, indices, total = _checked(metadata, len(frames))
    return VideoFrames(tuple(frames), tuple(index / fps for index in indices), 0.0, total / fps)


def _checked(metadata: Mapping[str, Any], count: int) -> tuple[float, list[int], int]:
    """Return the frames per second, the index of each frame, and the number of frames of the whole video."""
    fps, indices, total = metadata["fps"], metadata.get("frames_indices"), metadata.get("total_num_frames")
    try:
        rate, numbers = float(fps), list(range(count)) if indices is None else [int(index) for index in indices]
        length = 0 if total is None else int(total)
    except (TypeError, ValueError, OverflowError):
        rate, numbers, length = math.nan, [], 0
    if not 0 < rate < math.inf or len(numbers) != count or numbers[0] < 0 or numbers != sorted(numbers):
        raise InputError(
            f"the video_metadata has fps {fps!r}, frames_indices {indices!r} and total_num_frames {total!r} for {count} "
            "frames; give a positive fps, one ascending index per frame, and an int or None"
        )
    return rate, numbers, max(length, numbers[-1] + 1)
