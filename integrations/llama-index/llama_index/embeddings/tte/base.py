"""The embedding model: LlamaIndex's names and types on the outside, :class:`tte_retriever.TTEEncoder` inside."""

from __future__ import annotations

import asyncio
import base64
import binascii
import threading
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
from llama_index.core.embeddings import MultiModalEmbedding
from llama_index.core.schema import BaseNode, ImageNode, ImageType, MetadataMode, Node

from tte_retriever.errors import InputError, MediaError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llama_index.core.base.embeddings.base import Embedding

    from tte_retriever import TTEEncoder


class _LazyEncoder:
    """An encoder that is loaded when it is first used, and used by one thread at a time.

    A device gains nothing from two batches at once. Copies and pickles start unloaded.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: tuple[tuple[str, str | None], TTEEncoder] | None = None

    def __reduce__(self) -> tuple[type[_LazyEncoder], tuple[()]]:
        return (type(self), ())

    @contextmanager
    def using(self, model_name: str, device: str | None) -> Iterator[TTEEncoder]:
        """The encoder of this model name and device, for the length of the block."""
        with self._lock:
            if self._loaded is None or self._loaded[0] != (model_name, device):
                from tte_retriever import TTEEncoder  # loads torch, which settings alone do not need

                self._loaded = ((model_name, device), TTEEncoder(model_name, device=device))
            yield self._loaded[1]


class TTEEmbedding(MultiModalEmbedding):
    """Text and images in one vector space, by an encoder that thinks before it embeds.

    The model is loaded at the first embedding, not before; pickles, copies and ``to_dict`` carry the settings and
    never the weights. As a transformation of an ``IngestionPipeline`` it embeds an image node by its image (a caption
    in the node is not part of that vector) and any other node by its text.

    Example:
        >>> from llama_index.embeddings.tte import TTEEmbedding
        >>> embedding = TTEEmbedding(model_name="tte-flash-tiny", think_budget=8)
        >>> vector = embedding.get_query_embedding("a red circle")
    """

    # A misspelt setting is an error, not ignored.
    model_config = ConfigDict(extra="forbid")

    model_name: str = Field(
        default="tte-flash-tiny", description="Bundled name, folder or hub id, as TTEEncoder takes it."
    )
    think_budget: int | None = Field(
        default=None, ge=0, description="Think tokens per item; None is what the model was built with."
    )
    device: str | None = Field(default=None, description="Torch device, such as 'cuda:0'; None chooses.")

    _model: _LazyEncoder = PrivateAttr(default_factory=_LazyEncoder)

    @classmethod
    def class_name(cls) -> str:
        """The name by which LlamaIndex serializes this class."""
        return "TTEEmbedding"

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Set ``embedding`` of each node, from its image if it has one and from its text otherwise.

        Raises:
            InputError: A node holds video or audio, or an image only by URL.
            MediaError: An image cannot be opened.
        """
        texts, images = _by_kind(nodes)
        _assign(texts, self.get_text_embedding_batch([text for _, text in texts], **kwargs))
        _assign(images, self.get_image_embedding_batch([image for _, image in images], **kwargs))
        return nodes

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """As :meth:`__call__`, off the event loop."""
        texts, images = _by_kind(nodes)
        _assign(texts, await self.aget_text_embedding_batch([text for _, text in texts], **kwargs))
        _assign(images, await self.aget_image_embedding_batch([image for _, image in images], **kwargs))
        return nodes

    def _get_query_embedding(self, query: str) -> Embedding:
        return self._encode("encode_query", [{"text": query}])[0]

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return self._encode("encode_document", [{"text": text} for text in texts])

    def _get_image_embedding(self, img_file_path: ImageType) -> Embedding:
        return self._get_image_embeddings([img_file_path])[0]

    def _get_image_embeddings(self, img_file_paths: list[ImageType]) -> list[Embedding]:
        return self._encode("encode_document", [{"image": _image_source(image)} for image in img_file_paths])

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    async def _aget_image_embedding(self, img_file_path: ImageType) -> Embedding:
        return await asyncio.to_thread(self._get_image_embedding, img_file_path)

    async def _aget_image_embeddings(self, img_file_paths: list[ImageType]) -> list[Embedding]:
        return await asyncio.to_thread(self._get_image_embeddings, img_file_paths)

    def _encode(self, method: str, items: list[dict[str, Any]]) -> list[Embedding]:
        """Encode one batch; E floats per item."""
        options: dict[str, Any] = {"batch_size": self.embed_batch_size, "show_progress_bar": False}
        if self.think_budget is not None:
            options["think_budget"] = self.think_budget
        with self._model.using(self.model_name, self.device) as encoder:
            embeddings = getattr(encoder, method)(items, **options)  # (B, E) float32
        return [embedding.tolist() for embedding in embeddings]


def _by_kind(nodes: Sequence[BaseNode]) -> tuple[list[tuple[BaseNode, str]], list[tuple[BaseNode, ImageType]]]:
    """Split nodes into those embedded by their text and those embedded by their image."""
    texts: list[tuple[BaseNode, str]] = []
    images: list[tuple[BaseNode, ImageType]] = []
    for node in nodes:
        image = _image_of(node)
        if image is None:
            texts.append((node, node.get_content(metadata_mode=MetadataMode.EMBED)))
        else:
            images.append((node, image))
    return texts, images


def _image_of(node: BaseNode) -> ImageType | None:
    """The image a node is embedded by, or None for a text node."""
    if isinstance(node, ImageNode):
        return _image_from(node, node.image, node.image_path, node.image_url)
    if isinstance(node, Node):
        for kind in ("video", "audio"):
            if getattr(node, f"{kind}_resource") is not None:
                raise InputError(
                    f"node {node.node_id!r} holds {kind}; text and images are embedded here: "
                    "pass video to tte_retriever.TTEEncoder, and leave other kinds out"
                )
        if node.image_resource is not None:
            resource = node.image_resource
            return _image_from(node, resource.data, resource.path, resource.url)
    return None


def _image_from(node: BaseNode, encoded: str | bytes | None, path: str | Path | None, url: object) -> ImageType:
    if encoded:
        try:
            return BytesIO(base64.b64decode(encoded, validate=True))
        except (binascii.Error, ValueError) as error:
            raise MediaError(
                f"node {node.node_id!r} has an image that is not base64 ({error}); encode the bytes of the file",
                "corrupt",
            ) from error
    if path:
        return str(path)
    if url:
        raise MediaError(
            f"node {node.node_id!r} names its image by URL, {str(url)!r}; nothing is fetched: "
            "download it and set the path",
            "not-allowed",
        )
    # ImageNode(image_resource=MediaResource(data=...)) loses the bytes inside LlamaIndex.
    raise MediaError(f"node {node.node_id!r} is an image node without an image; set its path or its bytes", "empty")


def _image_source(image: ImageType) -> Path | bytes:
    """LlamaIndex says that a string is a path, so here, and only here, it is one."""
    return image.getvalue() if isinstance(image, BytesIO) else Path(image)


def _assign(nodes: Sequence[tuple[BaseNode, object]], embeddings: Sequence[Embedding]) -> None:
    for (node, _), embedding in zip(nodes, embeddings, strict=True):
        node.embedding = embedding
