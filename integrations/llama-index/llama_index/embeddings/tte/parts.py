"""The parts of a node, a content block or a mixed query, as one list in reading order."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from io import BytesIO, IOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from llama_index.core.base.llms.types import ImageBlock, TextBlock, VideoBlock
from llama_index.core.schema import BaseNode, ImageNode, ImageType, MetadataMode, Node
from PIL import Image

from tte_retriever.errors import InputError, MediaError
from tte_retriever.media import load_video, media_kind

if TYPE_CHECKING:
    from tte_retriever import TTEEncoder


@dataclass(frozen=True)
class VideoClip:
    """A video, or a part of it.

    Attributes:
        source: Path of the file, or its bytes.
        start_s: Start, in seconds.
        end_s: End, in seconds; ``None`` is the end of the video.

    Example:
        >>> from llama_index.embeddings.tte import VideoClip
        >>> VideoClip("film.mp4", start_s=6.0, end_s=12.0)
        VideoClip(source='film.mp4', start_s=6.0, end_s=12.0)
    """

    source: str | Path | BytesIO | bytes
    start_s: float = 0.0
    end_s: float | None = None


Kind: TypeAlias = Literal["text", "image", "video"]
VideoType: TypeAlias = str | Path | BytesIO | VideoClip
"""A video to embed; a ``str`` is a path, as for LlamaIndex's images."""
Block: TypeAlias = TextBlock | ImageBlock | VideoBlock | str | Path | Image.Image | VideoClip
"""A part of a mixed input. A ``str`` is text; a ``Path`` is an image or a video, depending on the file's content.

An animated image is a video, as it is for readers and stores. As an ``ImageBlock`` it is a still image.
"""
Part: TypeAlias = str | Path | bytes | Image.Image | VideoClip
"""Text, an image, or a video."""


def source_of(node: BaseNode) -> tuple[Kind, Any]:
    """What of a node is embedded: its video, else its image, else its text.

    A text has the metadata that is meant for embedding models. ``start_s`` and ``end_s`` in the metadata select a part of
    a video.

    Returns:
        ``text`` and a ``str``, ``image`` and an ``ImageType``, or ``video`` and a :class:`VideoClip`.

    Raises:
        MediaError: The image or the video is missing, not base64, or given by URL only.
        InputError: The node holds audio, or ``start_s`` or ``end_s`` is not a number.
    """
    owner = f"node {node.node_id!r}"
    if isinstance(node, ImageNode):
        return "image", _image(_media(owner, "image", node.image, node.image_path, node.image_url))
    if isinstance(node, Node):
        if node.audio_resource is not None:
            raise InputError(
                f"{owner} holds audio; only text, images and videos can be embedded: leave it out, or give its transcript "
                "as a TextNode"
            )
        if (video := node.video_resource) is not None:
            return "video", _clip(node, _media(owner, "video", video.data, video.path, video.url))
        if (image := node.image_resource) is not None:
            return "image", _image(_media(owner, "image", image.data, image.path, image.url))
    return "text", node.get_content(metadata_mode=MetadataMode.EMBED)


def image_part(image: ImageType) -> Part:
    """An image as a part. LlamaIndex gives images as path strings, so only here is a string a path."""
    return image.getvalue() if isinstance(image, BytesIO) else Path(image)


def video_part(video: VideoType) -> VideoClip:
    """A video as a part."""
    return video if isinstance(video, VideoClip) else VideoClip(video)


def block_part(block: Block) -> Part:
    """A content block as a part.

    Raises:
        MediaError: It is given by URL only, or is a path of a file that is neither an image nor a video.
        InputError: Its type is not supported.
    """
    if isinstance(block, TextBlock):
        return block.text
    if isinstance(block, ImageBlock):
        return _media("the image block", "image", block.image, block.path, block.url)
    if isinstance(block, VideoBlock):
        return VideoClip(_media("the video block", "video", block.video, block.path, block.url))
    if isinstance(block, Path):
        return VideoClip(block) if media_kind(block) in ("video", "animation") else block
    if isinstance(block, (str, Image.Image, VideoClip)):
        return block
    raise InputError(
        f"a block is a {type(block).__name__}; give text (str, TextBlock), images (ImageBlock, Path, PIL image) and "
        "videos (VideoBlock, Path, VideoClip)"
    )


def as_chat(parts: list[Part], encoder: TTEEncoder) -> list[dict[str, Any]]:
    """A chat of one message with the parts in their order; of a clip, only its frames are decoded."""
    return [{"role": "user", "content": [_content(part, encoder) for part in parts]}]


def name_of(part: Part) -> str:
    """The name of a part in events: its text or its path, never its bytes."""
    source = part.source if isinstance(part, VideoClip) else part
    if isinstance(source, BytesIO):
        source = source.getvalue()
    if isinstance(source, bytes):
        return f"<{len(source)} bytes>"
    return f"<image of {source.width}x{source.height} pixels>" if isinstance(source, Image.Image) else str(source)


def _content(part: Part, encoder: TTEEncoder) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, VideoClip):
        return {"type": "image", "image": part}
    source = part.source.getvalue() if isinstance(part.source, BytesIO) else part.source
    frames = load_video(
        Path(source) if isinstance(source, str) else source,
        encoder.media_limits,
        sampling=encoder.video_sampling,
        start_s=part.start_s,
        end_s=part.end_s,
    )
    return {"type": "video", "video": frames}


def _image(found: Path | bytes) -> ImageType:
    return str(found) if isinstance(found, Path) else BytesIO(found)


def _clip(node: BaseNode, found: Path | bytes) -> VideoClip:
    start_s, end_s = node.metadata.get("start_s"), node.metadata.get("end_s")
    for name, value in (("start_s", start_s), ("end_s", end_s)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise InputError(f"node {node.node_id!r} has {name}={value!r} in its metadata; give seconds as a number")
    return VideoClip(found, start_s or 0.0, end_s)


def _media(
    owner: str, kind: str, data: str | bytes | IOBase | None, path: str | Path | None, url: object
) -> Path | bytes:
    if isinstance(data, IOBase):
        data.seek(0)
        return bytes(data.read())
    if data:  # LlamaIndex has encoded it
        return _decoded(data, kind, owner)
    if path:
        return Path(path)
    if url:
        return _from_url(str(url), kind, owner)
    # ImageNode(image_resource=MediaResource(data=...)) loses the bytes inside LlamaIndex.
    raise MediaError(f"{owner} has no {kind}; set its path or its bytes", "empty")


def _decoded(encoded: str | bytes, kind: str, owner: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        message = f"{owner} has an {kind} that is not base64 ({error}); encode the bytes of the file"
        raise MediaError(message, "corrupt") from error


def _from_url(url: str, kind: str, owner: str) -> bytes:
    """The bytes in a ``data:`` URL, as LlamaIndex makes of files; other URLs are refused."""
    head, separator, encoded = url.partition(";base64,")
    if separator and head.startswith("data:"):
        return _decoded(encoded, kind, owner)
    message = (
        f"{owner} gives its {kind} by URL, {url[:200]!r}, and URLs are never fetched; download it and set the path"
    )
    raise MediaError(message, "not-allowed")
