"""What a file becomes: an image, one chunk per page, one per window of a video or a text."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tte_retriever.errors import InputError, MediaError
from tte_retriever.media import DEFAULT_LIMITS, MediaLimits, load_image, load_video, media_kind, probe_video
from tte_retriever.media.files import describe, open_source
from tte_retriever.sources.documents import load_page, page_count

if TYPE_CHECKING:
    from pathlib import Path

    from tte_retriever.media import VideoSampling

Modality: TypeAlias = Literal["image", "page", "video", "text"]
"""What a chunk is."""

Item: TypeAlias = Mapping[str, Any]
"""Decoded media under the keys ``text``, ``image`` and ``video``."""

DEFAULT_WINDOW_S = 6.0
"""Length of the windows that a video is cut into, in seconds."""

SHORTEST_WINDOW_S = 1.0
"""No window is shorter, unless the whole video is."""

WINDOW_CHARACTERS = 2_000
"""Most characters of a text in one chunk; a longer text is cut into windows, between words where that can be done."""

OVERLAP_CHARACTERS = 200
"""About how many characters of a text a window shares with the one before it."""

MAX_TEXT_BYTES = 16 * 1024**2
"""Largest text file that is opened."""

TEXT_SUFFIXES = (".txt", ".md")
"""Names of text files that are indexed; of other text, such as source code, nobody asked for it."""

_NAMESPACE = uuid.UUID("6c1f4a52-3a0c-5f0e-9d1b-0f6f2f6c7a11")  # part of every point's id: never change it


@dataclass(frozen=True)
class ChunkingConfig:
    """Into which windows videos are cut.

    Attributes:
        window_s: Their length, in seconds.
        overlap_s: How much of each is in the next one too, in seconds.
    """

    window_s: float = DEFAULT_WINDOW_S
    overlap_s: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.window_s) and self.window_s >= SHORTEST_WINDOW_S):
            raise InputError(f"window_s is {self.window_s!r}; give {SHORTEST_WINDOW_S} seconds or more")
        if not 0 <= self.overlap_s <= self.window_s / 2:
            raise InputError(f"overlap_s is {self.overlap_s!r}; give 0 to half of the window, {self.window_s / 2:g} s")

    def __str__(self) -> str:
        return f"{self.window_s:g}/{self.overlap_s:g}"


DEFAULT_CHUNKING = ChunkingConfig()


@dataclass(frozen=True)
class Chunk:
    """The part of a file that gets one vector.

    Attributes:
        modality: What it is.
        page: Page number from 1, of a document.
        start_s: Start of a window, in seconds, of a video or an animation.
        end_s: Its end, in seconds.
        start_char: Start of a window of a text, in characters; ``None`` for a text that fits one.
        end_char: Its end.
    """

    modality: Modality
    page: int | None = None
    start_s: float | None = None
    end_s: float | None = None
    start_char: int | None = None
    end_char: int | None = None

    @property
    def name(self) -> str:
        """Name within the file, by its standard: ``page=3`` (PDF), ``t=6,12`` (media), ``char=0,1990`` (text); empty for a whole file."""
        if self.page is not None:
            return f"page={self.page}"
        if self.start_char is not None:
            return f"char={self.start_char},{self.end_char}"
        return "" if self.start_s is None else f"t={self.start_s:g},{self.end_s:g}"

    def point_id(self, asset_id: str, fingerprint: str) -> str:
        """The id of its point: the same whenever the same content is embedded by the same model."""
        return str(uuid.uuid5(_NAMESPACE, f"{asset_id}|{fingerprint}|{self.modality}:{self.name}"))

    def payload(self) -> dict[str, Any]:
        """What is stored of it."""
        fields = asdict(self)
        return {key: value for key, value in fields.items() if value is not None}


def chunks_of(path: Path, cut: ChunkingConfig = DEFAULT_CHUNKING, limits: MediaLimits = DEFAULT_LIMITS) -> list[Chunk]:
    """Tell what a file becomes, by its content; nothing is decoded yet.

    Returns:
        Its chunks in order; none if it is of a kind that is not indexed.

    Raises:
        MediaError: It is broken or too large.
    """
    kind = media_kind(path, limits)
    if kind == "image":
        return [Chunk("image")]
    if kind == "pdf":
        return [Chunk("page", page=page) for page in range(1, page_count(path, limits) + 1)]
    if kind in ("video", "animation"):
        return [
            Chunk("video", start_s=start, end_s=end)
            for start, end in windows(probe_video(path, limits).duration_s, cut)
        ]
    return _text_chunks(path, limits) if kind == "text" and path.suffix.lower() in TEXT_SUFFIXES else []


def load_chunk(path: Path, chunk: Chunk, sampling: VideoSampling, limits: MediaLimits = DEFAULT_LIMITS) -> Item:
    """Decode a chunk to an item that an encoder takes.

    Raises:
        MediaError: This part of the file is broken.
    """
    if chunk.modality == "image":
        return {"image": load_image(path, limits)}
    if chunk.modality == "page":
        assert chunk.page is not None
        return {"image": load_page(path, chunk.page, limits)}
    if chunk.modality == "video":
        assert chunk.start_s is not None
        return {"video": load_video(path, limits, sampling=sampling, start_s=chunk.start_s, end_s=chunk.end_s)}
    return {"text": _read_text(path, limits)[chunk.start_char : chunk.end_char].strip()}


def pixels(item: Item) -> int:
    """How many pixels an item holds; each takes 3 bytes of memory."""
    images = item["video"].frames if "video" in item else [item["image"]] if "image" in item else []
    return sum(image.width * image.height for image in images)


def windows(duration_s: float, cut: ChunkingConfig) -> list[tuple[float, float]]:
    """Cut a duration into windows, in seconds, rounded to milliseconds.

    What is left at the end becomes a window of its own if it is at least a second long, else part of the last one, so
    that nothing is lost.
    """
    step_s = cut.window_s - cut.overlap_s
    count = max(int((duration_s - cut.overlap_s + 1e-6) // step_s), 1)
    if duration_s - cut.overlap_s - count * step_s >= SHORTEST_WINDOW_S:
        count += 1
    starts = [i * step_s for i in range(count)]
    ends = [start + cut.window_s for start in starts[:-1]] + [duration_s]
    return [(round(start, 3), round(end, 3)) for start, end in zip(starts, ends, strict=True)]


def _text_chunks(path: Path, limits: MediaLimits) -> list[Chunk]:
    text = _read_text(path, limits)
    if len(text) <= WINDOW_CHARACTERS:
        return [Chunk("text")]
    spans = _text_windows(text)
    return [Chunk("text", start_char=start, end_char=end) for start, end in spans if text[start:end].strip()]


def _text_windows(text: str) -> list[tuple[int, int]]:
    """Cut a text where words end, if a window has one in its second half."""
    spans: list[tuple[int, int]] = []
    start = 0
    while True:
        end = start + WINDOW_CHARACTERS
        if end >= len(text):
            return [*spans, (start, len(text))]
        end = _word_start(text, start + WINDOW_CHARACTERS // 2, end)
        spans.append((start, end))
        start = _word_start(text, end - 2 * OVERLAP_CHARACTERS, end - OVERLAP_CHARACTERS)


def _word_start(text: str, first: int, last: int) -> int:
    """The last place from ``first`` to ``last`` that follows white space, or ``last`` if there is none."""
    return next((i for i in range(last, first, -1) if text[i - 1].isspace()), last)


def _read_text(path: Path, limits: MediaLimits) -> str:
    with open_source(path, limits) as file:
        content = file.read(MAX_TEXT_BYTES + 1)
    if len(content) > MAX_TEXT_BYTES:
        message = f"{describe(path)} has more than {MAX_TEXT_BYTES} bytes; no larger texts are opened: split it"
        raise MediaError(message, "too-large")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MediaError(f"{describe(path)} is not UTF-8 at byte {error.start}; convert it", "corrupt") from error
    if not text.strip():
        raise MediaError(f"{describe(path)} holds nothing but white space", "empty")
    return text
