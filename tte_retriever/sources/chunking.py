"""Cut files into chunks: an image is one, a document one per page, a video or a text one per window."""

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
"""No window is shorter, unless the whole video is, in seconds."""

WINDOW_CHARACTERS = 2_000
"""Most characters of a text in one chunk; a longer text is cut into windows, between words where that is possible."""

OVERLAP_CHARACTERS = 200
"""About how many characters of a text a window shares with the one before it."""

MAX_TEXT_BYTES = 16 * 1024**2
"""Largest text file that is opened."""

TEXT_SUFFIXES = (".txt", ".md")
"""Names of text files that are indexed; other text, such as source code, is skipped."""

_NAMESPACE = uuid.UUID("6c1f4a52-3a0c-5f0e-9d1b-0f6f2f6c7a11")  # part of every point's id: never change it


@dataclass(frozen=True)
class ChunkingConfig:
    """Into which windows videos are cut.

    Attributes:
        window_s: Their length, in seconds.
        overlap_s: How much of each is in the next one too, in seconds.

    Raises:
        InputError: The windows are shorter than a second, or overlap by more than half.

    Example:
        >>> str(ChunkingConfig(window_s=10.0, overlap_s=2.0))  # as the ledger keeps it
        '10/2'
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
    """The part of a file that gets one vector: an image, a page, a window of a video or a text.

    Attributes:
        modality: What it is.
        page: Page number from 1, of a document.
        start_s: Start of a window of a video or an animation, in seconds.
        end_s: Its end, in seconds.
        start_char: Start of a window of a text, in characters; ``None`` for a text that is one chunk.
        end_char: Its end.

    Example:
        >>> Chunk("video", start_s=6.0, end_s=12.0).name
        't=6,12'
        >>> Chunk("page", page=3).payload()
        {'modality': 'page', 'page': 3}
    """

    modality: Modality
    page: int | None = None
    start_s: float | None = None
    end_s: float | None = None
    start_char: int | None = None
    end_char: int | None = None

    @property
    def name(self) -> str:
        """Name within the file: ``page=3`` (RFC 8118), ``t=6,12`` (Media Fragments), ``char=0,1990`` (RFC 5147), or ``""``."""
        if self.page is not None:
            return f"page={self.page}"
        if self.start_char is not None:
            return f"char={self.start_char},{self.end_char}"
        return "" if self.start_s is None else f"t={self.start_s:g},{self.end_s:g}"

    def point_id(self, asset_id: str, fingerprint: str) -> str:
        """The id of its point: the same whenever the same content is embedded by the same model."""
        return str(uuid.uuid5(_NAMESPACE, f"{asset_id}|{fingerprint}|{self.modality}:{self.name}"))

    def payload(self) -> dict[str, Any]:
        """What a store keeps of it: the attributes that apply."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def chunks_of(
    path: Path, chunking: ChunkingConfig = DEFAULT_CHUNKING, limits: MediaLimits = DEFAULT_LIMITS
) -> list[Chunk]:
    """The chunks of a file, by its content; nothing is decoded yet.

    Args:
        path: The file.
        chunking: Into which windows videos are cut.
        limits: What may be opened.

    Returns:
        Its chunks in order; none if it is of a kind that is not indexed.

    Raises:
        MediaError: It is broken or too large.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     _ = Path(folder, "note.txt").write_text("a red circle " * 200)
        ...     [chunk.name for chunk in chunks_of(Path(folder, "note.txt"))]
        ['char=0,1995', 'char=1794,2600']
    """
    kind = media_kind(path, limits)
    if kind == "image":
        return [Chunk("image")]
    if kind == "pdf":
        return [Chunk("page", page=page) for page in range(1, page_count(path, limits) + 1)]
    if kind in ("video", "animation"):
        spans = windows(probe_video(path, limits).duration_s, chunking)
        return [Chunk("video", start_s=start, end_s=end) for start, end in spans]
    return _text_chunks(path, limits) if kind == "text" and path.suffix.lower() in TEXT_SUFFIXES else []


def load_chunk(path: Path, chunk: Chunk, sampling: VideoSampling, limits: MediaLimits = DEFAULT_LIMITS) -> Item:
    """Decode a chunk to an item for an encoder.

    Args:
        path: The file.
        chunk: One of its chunks.
        sampling: Which frames of a video are taken.
        limits: What may be opened.

    Raises:
        MediaError: This part of the file is broken.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from tte_retriever.media import VideoSampling
        >>> with TemporaryDirectory() as folder:
        ...     _ = Path(folder, "note.txt").write_text("a red circle")
        ...     load_chunk(Path(folder, "note.txt"), Chunk("text"), VideoSampling())
        {'text': 'a red circle'}
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
    """The number of pixels that an item holds; each takes 3 bytes of memory.

    Example:
        >>> from PIL import Image
        >>> pixels({"image": Image.new("RGB", (40, 30))}), pixels({"text": "a red circle"})
        (1200, 0)
    """
    images = item["video"].frames if "video" in item else [item["image"]] if "image" in item else []
    return sum(image.width * image.height for image in images)


def windows(duration_s: float, chunking: ChunkingConfig) -> list[tuple[float, float]]:
    """Cut a duration into windows, in seconds, rounded to milliseconds.

    The rest at the end becomes a window of its own if it is at least a second long; otherwise the last window is longer.
    """
    step_s = chunking.window_s - chunking.overlap_s
    count = max(int((duration_s - chunking.overlap_s + 1e-6) // step_s), 1)
    if duration_s - chunking.overlap_s - count * step_s >= SHORTEST_WINDOW_S:
        count += 1
    starts = [i * step_s for i in range(count)]
    ends = [start + chunking.window_s for start in starts[:-1]] + [duration_s]
    return [(round(start, 3), round(end, 3)) for start, end in zip(starts, ends, strict=True)]


def _text_chunks(path: Path, limits: MediaLimits) -> list[Chunk]:
    text = _read_text(path, limits)
    if len(text) <= WINDOW_CHARACTERS:
        return [Chunk("text")]
    spans = _text_windows(text)
    return [Chunk("text", start_char=start, end_char=end) for start, end in spans if text[start:end].strip()]


def _text_windows(text: str) -> list[tuple[int, int]]:
    """Cut a text between words, if a word starts in the second half of a window."""
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
    """The last position from ``first`` to ``last`` that follows white space, or ``last`` if there is none."""
    return next((i for i in range(last, first, -1) if text[i - 1].isspace()), last)


def _read_text(path: Path, limits: MediaLimits) -> str:
    with open_source(path, limits) as file:
        content = file.read(MAX_TEXT_BYTES + 1)
    if len(content) > MAX_TEXT_BYTES:
        message = f"{describe(path)} has more than {MAX_TEXT_BYTES} bytes, and larger texts are not opened; split it"
        raise MediaError(message, "too-large")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MediaError(f"{describe(path)} is not UTF-8 at byte {error.start}; convert it", "corrupt") from error
    if not text.strip():
        raise MediaError(f"{describe(path)} holds nothing but white space", "empty")
    return text
