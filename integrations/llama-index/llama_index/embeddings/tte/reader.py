"""Read files into nodes: images, PDF pages, windows of videos and of texts, with ids made from content."""

from __future__ import annotations

import uuid
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_index.core.bridge.pydantic import Field
from llama_index.core.readers.base import BasePydanticReader
from llama_index.core.schema import BaseNode, ImageNode, MediaResource, MetadataMode, Node, TextNode
from llama_index.embeddings.tte.reporting import report_bad
from llama_index.embeddings.tte.views import view_of, views_folder

from tte_retriever import sources
from tte_retriever.errors import InputError, MediaError
from tte_retriever.media import DEFAULT_LIMITS, VideoSampling
from tte_retriever.media.files import describe

if TYPE_CHECKING:
    from collections.abc import Iterator

NOT_FOR_LLMS = ["asset_id", "file_path"]
"""Metadata that is of no use to a language model."""


class _KnownByContent(BaseNode):
    """A node whose hash and content come from the bytes of its file instead of from its path."""

    @property
    def hash(self) -> str:
        """A hash of the file's bytes and the node; LlamaIndex's own covers the path only."""
        return sha256(f"{self.metadata['asset_id']} {super().hash}".encode()).hexdigest()  # type: ignore[safe-super]

    def get_content(self, metadata_mode: MetadataMode = MetadataMode.NONE) -> str:
        """The content; empty for embedding as text, so that no index does so, until the node has its embedding."""
        if metadata_mode == MetadataMode.EMBED and self.embedding is None:
            return ""
        return super().get_content(metadata_mode)  # type: ignore[safe-super]


class _PictureNode(_KnownByContent, ImageNode):
    """An image, or the picture of a page."""


class _MomentNode(_KnownByContent, Node):
    """A window of a video."""


class TTEMediaReader(BasePydanticReader):
    """Reads a folder, or a file, into nodes for :class:`TTEEmbedding`.

    Images and pages of PDF become ``ImageNode``; windows of videos become ``Node`` with a ``video_resource`` and the
    window in their metadata; ``.txt`` and ``.md`` files in UTF-8 become one ``TextNode`` or, if long, several. No node
    holds bytes of media. Ids are made from content: the same file has the same ids anywhere, a changed file has others.

    Metadata: ``uri`` (path under the folder), ``file_path``, ``asset_id`` (SHA-256 of the file), ``modality``
    (``image``, ``page``, ``video``, ``text``) and, where they apply, ``page``, ``start_s``, ``end_s``, ``start_char``
    and ``end_char``.

    Files that cannot be used and paths that cannot be reached are reported by a log warning and a ``BadMediaEvent``
    and left out. Other kinds of files, hidden files, symbolic links and second files of the same content are left out
    without a report.

    Example:
        >>> from llama_index.embeddings.tte import TTEMediaReader
        >>> from pathlib import Path
        >>> _ = Path("note.md").write_text("A red circle is hidden in the drawer.")
        >>> [(node.metadata["uri"], node.metadata["modality"]) for node in TTEMediaReader().load_data(".")]
        [('note.md', 'text')]
    """

    window_s: float = Field(
        default=sources.DEFAULT_WINDOW_S,
        ge=sources.SHORTEST_WINDOW_S,
        description="Length of the windows of videos, in seconds.",
    )
    views_dir: str | None = Field(
        default=None, description="Where pictures of pages are kept; None is a folder in LlamaIndex's cache."
    )

    @classmethod
    def class_name(cls) -> str:
        """The name by which LlamaIndex serializes this class."""
        return "TTEMediaReader"

    def lazy_load_data(self, source: str | Path, **kwargs: Any) -> Iterator[BaseNode]:  # type: ignore[override]
        """Yield the nodes of a folder and its subfolders, or of one file.

        Raises:
            InputError: ``source`` does not exist.
        """
        source_path = sources.check_source(Path(source))
        root = sources.root_of(source_path)
        seen: set[str] = set()
        for path in sources.discover(source_path, lambda error: _report_unreached(error, root)):
            uri = sources.uri_of(path, root)
            try:
                asset_id = sources.asset_id_of(path, DEFAULT_LIMITS)
                if asset_id not in seen:
                    seen.add(asset_id)
                    metadata = {"uri": uri, "file_path": str(path), "asset_id": asset_id}
                    yield from self._nodes_of(path, metadata)
            except InputError as error:
                report_bad(uri, error)

    async def alazy_load_data(self, source: str | Path, **kwargs: Any) -> list[BaseNode]:  # type: ignore[override]
        """The nodes of :meth:`lazy_load_data` as a list, off the event loop."""
        return [*await self.aload_data(source, **kwargs)]

    def _nodes_of(self, path: Path, file_metadata: dict[str, str]) -> Iterator[BaseNode]:
        for chunk in sources.chunks_of(path, sources.ChunkingConfig(self.window_s)):
            try:
                yield self._node(path, chunk, {**file_metadata, **chunk.payload()})
            except InputError as error:
                report_bad(f"{file_metadata['uri']}#{chunk.name}", error)

    def _node(self, path: Path, chunk: sources.Chunk, metadata: dict[str, Any]) -> BaseNode:
        name = f"{metadata['asset_id']}|{chunk.modality}:{chunk.name}"
        fields: dict[str, Any] = {
            "id_": str(uuid.uuid5(uuid.NAMESPACE_OID, name)),
            "metadata": metadata,
            "excluded_llm_metadata_keys": NOT_FOR_LLMS,
        }
        if chunk.modality == "text":
            text = sources.load_chunk(path, chunk, VideoSampling())["text"]
            return TextNode(**fields, text=text, excluded_embed_metadata_keys=list(metadata))
        if chunk.modality == "video":
            # Without text, LlamaIndex leaves the metadata out of its cache keys, too.
            text_resource = MediaResource(text="")
            return _MomentNode(**fields, video_resource=MediaResource(path=path), text_resource=text_resource)
        if chunk.modality == "page":
            path = view_of(path, chunk, metadata["asset_id"], views_folder(self.views_dir))
        return _PictureNode(**fields, image_path=str(path))


def _report_unreached(error: OSError, root: Path) -> None:
    path = Path(error.filename)
    message = f"{describe(path)} cannot be reached: {error.strerror}; check its permissions and those of its folder"
    report_bad(sources.uri_of(path, root), MediaError(message, "unreadable"))
