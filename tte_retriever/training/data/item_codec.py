"""One item of a training pair as JSON, with its media as paths that are opened when a batch is made.

In Arrow an encoded item is the struct ``{"json": …}`` and not a bare string. It therefore cannot be mistaken for text after
a dataset was filtered, saved or concatenated.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tte_retriever.errors import InputError, MediaError
from tte_retriever.media import VideoFrames, typed_input

_BLANK = np.zeros((1, 1, 3), np.uint8)


def encode_item(item: Any, media_root: Path) -> str:
    """Check an item that was read from a file and encode it as JSON.

    Args:
        item: A ``str`` (text), a dict of ``text``, ``image`` and ``video``, or a list of chat messages, as the encoder
            takes them, but with media as paths relative to ``media_root``. A video is a file or a list of frames.
        media_root: An existing folder. Files outside of it are refused, also behind symbolic links.

    Raises:
        InputError: It is not an item, or an empty one.
        MediaError: ``missing`` or ``not-allowed``, for a path. Files are not opened here.

    Example:
        >>> from pathlib import Path
        >>> encode_item({"text": "a red circle"}, Path("."))
        '{"text": "a red circle"}'
    """
    typed_input(_map_media(item, _blank))  # one place defines what an item may be
    return json.dumps(_map_media(item, lambda _kind, value: _each(value, lambda path: _resolve(path, media_root))))


def decode_item(encoded: Any) -> Any:
    """The item in ``{"json": …}``, its media as ``pathlib.Path``; any other value is an item already and is returned.

    Example:
        >>> decode_item({"json": '{"text": "a red circle"}'})
        {'text': 'a red circle'}
    """
    if isinstance(encoded, Mapping) and list(encoded) == ["json"]:
        return _map_media(json.loads(encoded["json"]), lambda _kind, value: _each(value, Path))
    return encoded


def content_id(item: Any) -> int:
    """A hash of an item's content, from 0 to 2**63 - 1, the same in every process.

    Text is stripped, a file counts by its path, anything else by its bytes. A bare item and a chat of one user message with
    the same parts have the same id.

    Example:
        >>> content_id("a cat") == content_id([{"role": "user", "content": " a cat"}])
        True
    """
    digest = hashlib.sha256()
    for chunk in _chunks(item):
        digest.update(len(chunk).to_bytes(8, "little") + chunk)
    return int.from_bytes(digest.digest()[:8], "little") >> 1


def item_parts(item: Any) -> Iterator[str | None]:
    """The parts of an item in order: its texts, and ``None`` for each image or video. Of a chat, without system messages."""
    if isinstance(item, str):
        yield item.strip()
    elif isinstance(item, (list, tuple)):
        for each in item:
            yield from item_parts(each)
    elif not isinstance(item, Mapping):
        yield None
    elif "role" in item:
        yield from item_parts(item["content"]) if item["role"] != "system" else ()
    else:
        for kind, value in item.items():
            if kind in ("text", "message"):
                yield from item_parts(value)
            elif kind in ("image", "video"):
                yield None


def _map_media(item: Any, change: Callable[[str, Any], Any]) -> Any:
    """The item with every value under ``image`` and ``video``, in chats as well, replaced."""
    if isinstance(item, list):
        return [_map_media(each, change) for each in item]
    if not isinstance(item, Mapping):
        return item
    media = {key: change(key, value) for key, value in item.items() if key in ("image", "video")}
    chats = {key: _map_media(value, change) for key, value in item.items() if key in ("content", "message")}
    return {**item, **media, **chats}


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    return [change(each) for each in value] if isinstance(value, list) else change(value)


def _blank(kind: str, value: Any) -> Any:
    if kind == "video" and not isinstance(value, list):
        return [_BLANK]
    return _each(value, lambda _path: _BLANK)


def _resolve(path: Any, root: Path) -> str:
    if not isinstance(path, str) or not path.strip():
        raise InputError(f"{path!r} was given as media; give a path relative to the media root")
    root = root.resolve()
    try:
        found = (root / path).resolve()
        exists = found.is_file()
    except (ValueError, OSError, RuntimeError) as error:  # a NUL, a name too long, a loop of links
        raise MediaError(f"{path!r} cannot be used as a path: {error}; give a relative one", "missing") from error
    if not found.is_relative_to(root):
        raise MediaError(f"{path!r} leads out of the media root {str(root)!r}; put the file inside", "not-allowed")
    if not exists:
        raise MediaError(f"{path!r} is not a file under the media root {str(root)!r}; check both", "missing")
    return str(found)


def _chunks(item: Any) -> Iterator[bytes]:
    """The bytes that are hashed: roles, kinds and contents, in order."""
    if isinstance(item, Mapping) and "message" in item:
        item = item["message"]
    messages = [item] if isinstance(item, Mapping) and "role" in item else item
    if not isinstance(messages, (list, tuple)):
        messages = [{"role": "user", "content": item}]
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str) or "content" not in message:
            raise InputError('a list that is not a chat was given as content; messages are {"role": …, "content": …}')
        yield message["role"].encode()
        content = message["content"]
        for part in content if isinstance(content, (list, tuple)) else [content]:
            for kind, value in _kinds(part):
                for each in value if kind == "image" and isinstance(value, (list, tuple)) else [value]:
                    yield kind.encode()
                    yield from _bytes(each)


def _kinds(part: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(part, Mapping):
        yield from ((key, value) for key, value in part.items() if key != "type")
    elif isinstance(part, str):
        yield "text", part
    elif isinstance(part, (Path, bytes)):
        yield "file", part
    else:
        yield "video" if isinstance(part, VideoFrames) or getattr(part, "ndim", 3) == 4 else "image", part


def _bytes(value: Any) -> Iterator[bytes]:
    if isinstance(value, str):
        yield value.strip().encode(errors="surrogatepass")
    elif isinstance(value, bytes):
        yield value
    elif isinstance(value, Path):
        yield os.fsencode(value)
    elif isinstance(value, Image.Image):
        yield from (f"{value.mode} {value.size}".encode(), value.tobytes())
    elif isinstance(value, np.ndarray):
        yield from (f"{value.dtype} {value.shape}".encode(), value.tobytes())
    elif isinstance(value, VideoFrames):
        yield repr(value.timestamps_s).encode()
        yield from _bytes(list(value.frames))
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _bytes(each)
    else:
        raise InputError(f"an object of type {type(value).__name__} was given as content; give text or media")
