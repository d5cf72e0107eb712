"""Convert anything that can be encoded to a dict of text and decoded media."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
from PIL import Image

from tte_retriever.errors import InputError, MediaError
from tte_retriever.media.arrays import as_array, as_frames
from tte_retriever.media.files import Source, describe
from tte_retriever.media.images import load_image
from tte_retriever.media.limits import DEFAULT_LIMITS, MediaLimits
from tte_retriever.media.sampling import DEFAULT_SAMPLING, VideoSampling
from tte_retriever.media.sniff import media_kind
from tte_retriever.media.urls import fetch, is_url
from tte_retriever.media.video import VideoFrames, load_video


class TypedInput(TypedDict, total=False):
    """A decoded item: any of text, image and video, in the order in which the model reads them.

    A chat has the single key ``message`` instead: a list of messages whose media is decoded.

    Example:
        >>> from tte_retriever.media import TypedInput
        >>> item: TypedInput = {"text": "a red circle"}
    """

    text: str
    image: Image.Image | list[Image.Image]
    video: VideoFrames
    message: list[dict[str, Any]]


_FETCHING_KEYS = ("url", "path", "uri", "base64", "image_url", "video_url", "audio_url", "file", "file_id")
"""Keys whose path or URL a template or processor would open itself."""

_ALLOWED = (
    'give a str (text), a dict with keys among "text", "image" and "video", a pathlib.Path, bytes, a PIL image, '
    "an image array, or a list of chat messages"
)


def typed_input(
    item: Any, limits: MediaLimits = DEFAULT_LIMITS, *, video: VideoSampling = DEFAULT_SAMPLING
) -> TypedInput:
    """Decode one item to encode.

    Args:
        item: One of:

            * a ``str``, which is always text;
            * a dict with keys among ``text``, ``image`` (one or a list) and ``video``;
            * a ``Path`` or ``bytes``, an image or a video by its content (an animated image is an image here);
            * a PIL image, an image array, a video array (T, H, W, 3), ``VideoFrames``, or a torch tensor with channels
              first;
            * a chat: one message ``{"role": …, "content": …}`` or a list of them, whose other keys are kept;
            * a result of this function, which is returned unchanged.

            A ``video`` may also be ``{"array": …, "video_metadata": {"fps", "frames_indices", "total_num_frames"}}``.
            ``image``, ``video`` and a content part ``{"type": "image_url", "image_url": {"url": …}}`` may hold a URL on
            one of ``MediaLimits.url_hosts``.
        limits: What may be opened.
        video: How many frames to sample from a video.

    Returns:
        The item, with images as PIL RGB images and videos as :class:`VideoFrames`.

    Raises:
        MediaError: Media is not usable, or a ``str`` was given as media (``not-allowed``).
        InputError: The item has another type, or is empty.

    Example:
        >>> from PIL import Image
        >>> from tte_retriever.media import typed_input
        >>> item = typed_input({"image": Image.new("L", (32, 24)), "text": "a black image"})
        >>> list(item), item["image"].mode
        (['image', 'text'], 'RGB')
    """
    decoder = _Decoder(limits, video)
    if isinstance(item, str):
        return {"text": _text(item)}
    if isinstance(item, Mapping):
        return decoder.mapping(item)
    item = as_array(item)
    if isinstance(item, (Path, bytes)):
        return decoder.file(item)
    if isinstance(item, VideoFrames) or (isinstance(item, np.ndarray) and item.ndim == 4):
        return {"video": load_video(item, limits, sampling=video)}
    if isinstance(item, (Image.Image, np.ndarray)):
        return {"image": load_image(item, limits)}
    if isinstance(item, (list, tuple)):
        return {"message": decoder.chat(item)}
    raise InputError(f"{describe(item)} cannot be encoded; {_ALLOWED}")


class _Decoder:
    """Decodes the parts of an item under one set of limits."""

    def __init__(self, limits: MediaLimits, sampling: VideoSampling) -> None:
        self._limits, self._sampling = limits, sampling

    def mapping(self, item: Mapping[str, Any]) -> TypedInput:
        if "role" in item:
            return {"message": self.chat([item])}
        if list(item) == ["message"]:
            return {"message": self.chat(item["message"])}
        _refuse_fetching(item)
        unknown = [key for key in item if key not in ("text", "image", "video")]
        if unknown or not item:
            given = f"a dict with the keys {unknown}" if unknown else "an empty dict"
            raise InputError(f'{given} was given; the keys are "text", "image" and "video", one or more of them')
        # In the given order, in which the model reads them.
        return cast("TypedInput", {key: self.value(key, value) for key, value in item.items()})

    def value(self, key: str, value: Any) -> Any:
        if value is None:
            raise InputError(f'"{key}" is None; leave the key out instead')
        if key == "text":
            return _text(value)
        if key == "image" and isinstance(value, (list, tuple)):
            if not value:
                raise InputError('"image" is an empty list; give one image or more, or leave the key out')
            return [self.medium(key, image) for image in value]
        return self.medium(key, value)

    def medium(self, key: str, value: Any) -> Any:
        if self._limits.url_hosts and is_url(value):
            source = fetch(value, self._limits)
            try:
                return self.medium(key, source)
            except MediaError as error:
                raise MediaError(f"{value!r} was fetched, but {error}", error.reason) from error
        if key == "video":
            return load_video(as_frames(value), self._limits, sampling=self._sampling)
        return load_image(as_array(value), self._limits)

    def file(self, source: Source) -> TypedInput:
        kind = media_kind(source, self._limits)
        if kind == "video":
            return {"video": load_video(source, self._limits, sampling=self._sampling)}
        if kind in ("image", "animation"):
            return {"image": load_image(source, self._limits)}
        advice = {"text": "; read it and give its text as a str", "pdf": "; render its pages to images"}.get(kind, "")
        message = f"{describe(source)} (content: {kind}) is neither an image nor a video{advice}"
        raise MediaError(message, "unsupported")

    def chat(self, messages: Any) -> list[dict[str, Any]]:
        if not isinstance(messages, Sequence) or not messages:
            given = "an empty list" if isinstance(messages, Sequence) else describe(messages)
            raise InputError(f"{given} was given; {_ALLOWED}")
        return [self.message(message) for message in messages]

    def message(self, message: Any) -> dict[str, Any]:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str) or "content" not in message:
            raise InputError(
                f"a list that holds {describe(message)} was given; a list must hold chat messages "
                '{"role": …, "content": …}; for several images give {"image": […]}, for frames {"video": […]}'
            )
        _refuse_fetching(message)
        content = message["content"]
        if isinstance(content, (list, tuple)) and content:
            return {**message, "content": [self.part(part) for part in content]}
        return {**message, "content": _text(content)}

    def part(self, part: Any) -> dict[str, Any]:
        if self._limits.url_hosts:
            part = _without_url_type(part)
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(part, Mapping):
            _refuse_fetching(part)
        if kind not in ("text", "image", "video") or set(part) != {"type", kind}:
            given = f"the keys {sorted(map(str, part))}" if isinstance(part, Mapping) else describe(part)
            raise InputError(
                f"a content part with type {kind!r} ({given}) was given; a part is {{'type': 'text', 'text': str}}, "
                "{'type': 'image', 'image': …} or {'type': 'video', 'video': …}"
            )
        if kind == "image" and isinstance(part[kind], (list, tuple)):
            raise InputError("a content part has several images; give each image its own part")
        return {"type": kind, kind: self.value(kind, part[kind])}


def _text(text: Any) -> str:
    if not isinstance(text, str):
        raise InputError(f"{describe(text)} was given as text; give a str")
    if not text.strip():
        raise InputError("the text is empty; give some text, or leave the item out")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        message = f"the text has a lone surrogate at position {error.start}; decode it from its bytes again"
        raise InputError(message) from error
    return text


def _without_url_type(part: Any) -> Any:
    """Convert OpenAI's content part for a URL to the form ``{"type": "image", "image": url}``."""
    for kind in ("image", "video"):
        key = f"{kind}_url"
        if isinstance(part, Mapping) and part.get("type") == key and set(part) == {"type", key}:
            url = part[key]
            return {"type": kind, kind: url.get("url") if isinstance(url, Mapping) else url}
    return part


def _refuse_fetching(mapping: Mapping[str, Any]) -> None:
    found = [key for key in mapping if key in _FETCHING_KEYS]
    if found:
        message = (
            f"the key {found[0]!r} was given, and no path or URL is opened from it; give the media under 'image' or 'video' "
            "as a pathlib.Path, bytes, decoded pixels, or a URL whose host is in MediaLimits.url_hosts"
        )
        raise MediaError(message, "not-allowed")
