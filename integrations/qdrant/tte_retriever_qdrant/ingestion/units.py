"""What a file becomes: an image, a text, one unit per page, one per window of a video."""

from __future__ import annotations

import codecs
import itertools
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tte_retriever.errors import MediaError
from tte_retriever.media import DEFAULT_LIMITS, MediaLimits, load_image, load_video, media_kind, probe_video
from tte_retriever.media.sources import describe, open_source
from tte_retriever_qdrant.documents import load_page, page_count

if TYPE_CHECKING:
    from pathlib import Path

    from tte_retriever.media import VideoSampling
    from tte_retriever_qdrant.encoder import Item
    from tte_retriever_qdrant.records import Modality

DEFAULT_WINDOW_S = 6.0
"""Length of the windows that a video is cut into, in seconds."""

SHORTEST_WINDOW_S = 1.0
"""No window is shorter, unless the whole video is."""

MAX_TEXT_CHARACTERS = 2_000
"""How much of a text file is read."""

TEXT_SUFFIXES = (".txt", ".md")
"""Names of text files that are indexed; of other text, such as source code, nobody asked for it."""

_NAMESPACE = uuid.UUID("6c1f4a52-3a0c-5f0e-9d1b-0f6f2f6c7a11")  # part of every point's id: never change it


@dataclass(frozen=True)
class Unit:
    """The part of a file that gets one vector.

    Attributes:
        modality: What it is.
        page: Page number from 1, of a document.
        start_s: Start of a window, in seconds, of a video or an animation.
        end_s: Its end, in seconds.
    """

    modality: Modality
    page: int | None = None
    start_s: float | None = None
    end_s: float | None = None

    @property
    def name(self) -> str:
        """Name within the file, such as ``page=3`` or ``t=6,12`` (media fragments); empty for a whole file."""
        if self.page is not None:
            return f"page={self.page}"
        return "" if self.start_s is None else f"t={self.start_s:g},{self.end_s:g}"

    def point_id(self, asset_id: str, fingerprint: str) -> str:
        """The id of its point: the same whenever the same content is embedded by the same model."""
        return str(uuid.uuid5(_NAMESPACE, f"{asset_id}|{fingerprint}|{self.modality}:{self.name}"))

    def payload(self) -> dict[str, Any]:
        """What is stored of it."""
        fields = {"modality": self.modality, "page": self.page, "start_s": self.start_s, "end_s": self.end_s}
        return {key: value for key, value in fields.items() if value is not None}


def units(path: Path, *, window_s: float = DEFAULT_WINDOW_S, limits: MediaLimits = DEFAULT_LIMITS) -> list[Unit]:
    """Tell what a file becomes, by its content; nothing is decoded yet.

    Returns:
        Its units in order; none if it is of a kind that is not indexed.

    Raises:
        MediaError: It is broken or too large.
    """
    kind = media_kind(path, limits)
    if kind == "image":
        return [Unit("image")]
    if kind == "pdf":
        return [Unit("page", page=page) for page in range(1, page_count(path, limits) + 1)]
    if kind in ("video", "animation"):
        return [
            Unit("video", start_s=start, end_s=end)
            for start, end in windows(probe_video(path, limits).duration_s, window_s)
        ]
    return [Unit("text")] if kind == "text" and path.suffix.lower() in TEXT_SUFFIXES else []


def load_unit(path: Path, unit: Unit, sampling: VideoSampling, limits: MediaLimits = DEFAULT_LIMITS) -> Item:
    """Decode a unit to an item that an encoder takes.

    Raises:
        MediaError: This part of the file is broken.
    """
    if unit.modality == "image":
        return {"image": load_image(path, limits)}
    if unit.modality == "page":
        assert unit.page is not None
        return {"image": load_page(path, unit.page, limits)}
    if unit.modality == "video":
        assert unit.start_s is not None
        return {"video": load_video(path, limits, sampling=sampling, start_s=unit.start_s, end_s=unit.end_s)}
    return {"text": _load_text(path, limits)}


def windows(duration_s: float, window_s: float) -> list[tuple[float, float]]:
    """Cut a duration into windows, in seconds, rounded to milliseconds.

    What is left at the end becomes a window of its own if it is at least a second long, else part of the last one, so
    that nothing is lost.
    """
    count = max(int((duration_s + 1e-6) // window_s), 1)
    if duration_s - count * window_s >= SHORTEST_WINDOW_S:
        count += 1
    edges = [round(i * window_s, 3) for i in range(count)] + [round(duration_s, 3)]
    return list(itertools.pairwise(edges))


def _load_text(path: Path, limits: MediaLimits) -> str:
    with open_source(path, limits) as file:
        head = file.read(4 * MAX_TEXT_CHARACTERS + 3)  # the longest UTF-8 that so many characters and a mark can take
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)[:MAX_TEXT_CHARACTERS].strip()
    except UnicodeDecodeError as error:
        raise MediaError(f"{describe(path)} is not UTF-8 at byte {error.start}; convert it", "corrupt") from error
    if not text:
        raise MediaError(f"{describe(path)} holds nothing but white space", "empty")
    return text
