"""The embedding model: LlamaIndex's names and types on the outside, :class:`tte_retriever.TTEEncoder` inside."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Literal

import llama_index.core.instrumentation as instrument
from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
from llama_index.core.callbacks.schema import CBEventType, EventPayload
from llama_index.core.embeddings import MultiModalEmbedding
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent
from llama_index.core.schema import BaseNode, NodeRelationship, RelatedNodeInfo
from llama_index.core.utils import get_tqdm_iterable
from llama_index.embeddings.tte.parts import as_chat, block_part, image_part, name_of, source_of, video_part
from llama_index.embeddings.tte.reporting import report_bad

from tte_retriever.chats import image_size
from tte_retriever.errors import InputError, TTEError
from tte_retriever.isolation import run_isolated
from tte_retriever.options import ModelOptions
from tte_retriever.prompts import document_prompt_name, query_prompt_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from llama_index.core.base.embeddings.base import Embedding
    from llama_index.core.schema import ImageType
    from llama_index.embeddings.tte.parts import Block, Part, VideoType

    from tte_retriever import TTEEncoder

_Method = Literal["encode_query", "encode_document"]

dispatcher = instrument.get_dispatcher(__name__)


class _LazyEncoder:
    """An encoder that is loaded on first use and used by one thread at a time.

    Two batches at once would make no device faster. Copies and pickles are not loaded.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: tuple[ModelOptions, TTEEncoder] | None = None

    def __reduce__(self) -> tuple[type[_LazyEncoder], tuple[()]]:
        return (type(self), ())

    @contextmanager
    def using(self, options: ModelOptions) -> Iterator[TTEEncoder]:
        """Lock and yield the encoder of these options; a change of those that choose how it encodes does not load it again."""
        with self._lock:
            loading = replace(options, max_pixels=None, think_budget=None, batch_tokens=None)
            if self._loaded is None or self._loaded[0] != loading:
                self._loaded = (loading, loading.load())
            encoder = self._loaded[1]
            encoder.max_pixels, encoder.think_budget = options.max_pixels, options.think_budget
            yield encoder


class TTEEmbedding(MultiModalEmbedding):
    """Text, images, videos and mixtures of them in one vector space, by an encoder that thinks before it embeds.

    The model is loaded at the first embedding. Pickles, copies and ``to_dict`` hold the settings and never the weights.
    As a transformation of an ``IngestionPipeline`` it embeds the video, the image or the text of a node; a caption in an
    image node is not part of the vector.

    Example:
        >>> from llama_index.embeddings.tte import TTEEmbedding
        >>> embedding = TTEEmbedding(model_name="tte-flash-tiny", think_budget=8)
        >>> len(embedding.get_query_embedding("a red circle"))
        128
    """

    # A misspelt setting is an error.
    model_config = ConfigDict(extra="forbid")

    model_name: str = Field(default="tte-flash-tiny", description=ModelOptions.help_of("model"))
    revision: str | None = Field(default=None, description=ModelOptions.help_of("revision"))
    device: str | None = Field(default=None, description=ModelOptions.help_of("device"))
    dtype: str | None = Field(default=None, description=ModelOptions.help_of("dtype"))
    attention: str | None = Field(default=None, description=ModelOptions.help_of("attention"))
    max_pixels: int | None = Field(default=None, gt=0, description=ModelOptions.help_of("max_pixels"))
    think_budget: int | None = Field(default=None, ge=0, description=ModelOptions.help_of("think_budget"))
    batch_tokens: int | None = Field(default=None, gt=0, description=ModelOptions.help_of("batch_tokens"))
    dim: int | None = Field(
        default=None, gt=0, description="Leading dimensions to keep, scaled to length 1; None is all of them."
    )

    query_instruction: str | None = Field(
        default=None, description="System message of queries. Default: the model's own prompt for queries."
    )

    _model: _LazyEncoder = PrivateAttr(default_factory=_LazyEncoder)

    @classmethod
    def class_name(cls) -> str:
        """The name by which LlamaIndex serializes this class."""
        return "TTEEmbedding"

    @property
    def fingerprint(self) -> str:
        """Identity of the model's weights and settings, which stores record; loads the model."""
        with self._model.using(self._to_load) as encoder:
            return encoder.fingerprint

    @property
    def document_fingerprint(self) -> str:
        """As ``fingerprint``, without the prompts of queries."""
        with self._model.using(self._to_load) as encoder:
            return encoder.document_fingerprint

    @property
    def _to_load(self) -> ModelOptions:
        names = [each.name for each in fields(ModelOptions) if each.name != "model"]
        return ModelOptions(self.model_name, **{name: getattr(self, name) for name in names})

    def with_defaults(self, **settings: Any) -> TTEEmbedding:
        """A copy with other values for the settings that are ``None``; it uses the same loaded model."""
        chosen = {name: value for name, value in settings.items() if getattr(self, name) is None}
        return self.model_copy(update=chosen)

    # Nodes ---------------------------------------------------------------------------------------------------------

    def __call__(self, nodes: Sequence[BaseNode], show_progress: bool = False, **kwargs: Any) -> Sequence[BaseNode]:
        """Set ``embedding`` of each node, from its video, else its image, else its text.

        A node that cannot be embedded (broken or missing media, media by URL, audio, no text, a vector of NaN) is reported
        by a log warning and a ``BadMediaEvent``, and left out of the result; the others are embedded.

        Returns:
            The nodes that have a vector, in the order given. A node without a source is returned as a copy that is its
            own source, so that a pipeline can delete what it stored when the node changes.

        Raises:
            InputError: The model has fewer think tokens than ``think_budget``, or fewer dimensions than ``dim``.
            TTEError: The model is broken: its vector of any item is NaN.
        """
        with self._model.using(self._to_load) as encoder:
            self._options(encoder)  # raise for a wrong setting, rather than report every node
        sources: dict[str, list[tuple[BaseNode, Any]]] = {"text": [], "image": [], "video": []}
        for node in nodes:
            node.embedding = None  # a node that fails below must not keep the vector of its former content
            try:
                kind, source = source_of(node)
                sources[kind].append((node, source))
            except InputError as error:
                report_bad(f"node {node.node_id}", error)
        self._set_each(sources["text"], self.get_text_embedding_batch, show_progress)
        self._set_each(sources["image"], self.get_image_embedding_batch, show_progress)
        self._set_each(sources["video"], self.get_video_embeddings, show_progress)
        return [_with_source(node) for node in nodes if node.embedding is not None]

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """As :meth:`__call__`, off the event loop."""
        return await asyncio.to_thread(self.__call__, nodes, **kwargs)

    def _set_each(
        self, sources: list[tuple[BaseNode, Any]], embed: Callable[[list[Any]], list[Embedding]], show_progress: bool
    ) -> None:
        batches = range(0, len(sources), self.embed_batch_size)
        for start in get_tqdm_iterable(batches, show_progress and len(sources) > 0, "Generating embeddings"):
            batch = sources[start : start + self.embed_batch_size]
            results = run_isolated(lambda items: embed([*items]), [source for _, source in batch], TTEError)
            for (node, _), result in zip(batch, results, strict=True):
                if isinstance(result, TTEError):
                    self._check_model(result)
                    report_bad(f"node {node.node_id}", result)
                else:
                    node.embedding = result

    def _check_model(self, error: TTEError) -> None:
        """Raise if the model fails on a plain text, too: then no node is to blame."""
        if not isinstance(error, InputError):
            self._get_text_embedding("a")

    # Text ----------------------------------------------------------------------------------------------------------

    def _get_query_embedding(self, query: str) -> Embedding:
        return self._encode("encode_query", [[query]])[0]

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return self._encode("encode_document", [[text] for text in texts])

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    # Images --------------------------------------------------------------------------------------------------------

    def _get_image_embedding(self, img_file_path: ImageType) -> Embedding:
        return self._get_image_embeddings([img_file_path])[0]

    def _get_image_embeddings(self, img_file_paths: list[ImageType]) -> list[Embedding]:
        return self._encode_media("encode_document", [[image_part(image)] for image in img_file_paths])

    async def _aget_image_embedding(self, img_file_path: ImageType) -> Embedding:
        return await asyncio.to_thread(self._get_image_embedding, img_file_path)

    async def _aget_image_embeddings(self, img_file_paths: list[ImageType]) -> list[Embedding]:
        return await asyncio.to_thread(self._get_image_embeddings, img_file_paths)

    # Videos --------------------------------------------------------------------------------------------------------

    def get_video_embedding(self, video: VideoType) -> Embedding:
        """Embed a video, or the part of it that a :class:`VideoClip` names.

        Raises:
            MediaError: The video cannot be used.
        """
        return self.get_video_embeddings([video])[0]

    async def aget_video_embedding(self, video: VideoType) -> Embedding:
        """As :meth:`get_video_embedding`, off the event loop."""
        return await asyncio.to_thread(self.get_video_embedding, video)

    def get_video_embeddings(self, videos: Sequence[VideoType]) -> list[Embedding]:
        """Embed videos in batches of ``embed_batch_size``; raises as :meth:`get_video_embedding`."""
        items: list[list[Part]] = [[video_part(video)] for video in videos]
        size = self.embed_batch_size
        batches = [items[start : start + size] for start in range(0, len(items), size)]
        return [vector for batch in batches for vector in self._encode_called_back("encode_document", batch)]

    async def aget_video_embeddings(self, videos: Sequence[VideoType]) -> list[Embedding]:
        """As :meth:`get_video_embeddings`, off the event loop."""
        return await asyncio.to_thread(self.get_video_embeddings, videos)

    # Mixtures ------------------------------------------------------------------------------------------------------

    def get_multimodal_embedding(self, blocks: Sequence[Block]) -> Embedding:
        """Embed text, images and videos together, in reading order, as one vector of a document.

        Args:
            blocks: LlamaIndex's content blocks, or a ``str`` (text), a ``Path`` (an image or a video, depending on its
                content; an animated image is a video, unlike for ``TTEEncoder``), a PIL image, a :class:`VideoClip`.

        Raises:
            InputError: There is no block, or a block of an unsupported type.
            MediaError: An image or a video cannot be used, or is given by URL.
        """
        return self._encode_blocks("encode_document", blocks)

    async def aget_multimodal_embedding(self, blocks: Sequence[Block]) -> Embedding:
        """As :meth:`get_multimodal_embedding`, off the event loop."""
        return await asyncio.to_thread(self.get_multimodal_embedding, blocks)

    def get_multimodal_query_embedding(self, blocks: Sequence[Block]) -> Embedding:
        """As :meth:`get_multimodal_embedding`, but the vector of a query."""
        return self._encode_blocks("encode_query", blocks)

    async def aget_multimodal_query_embedding(self, blocks: Sequence[Block]) -> Embedding:
        """As :meth:`get_multimodal_query_embedding`, off the event loop."""
        return await asyncio.to_thread(self.get_multimodal_query_embedding, blocks)

    # Inside --------------------------------------------------------------------------------------------------------

    def _encode_blocks(self, method: _Method, blocks: Sequence[Block]) -> Embedding:
        if isinstance(blocks, str) or not blocks:
            raise InputError(f"the blocks are {blocks!r}; give a list of one block or more")
        return self._encode_called_back(method, [[block_part(block) for block in blocks]])[0]

    def _encode_called_back(self, method: _Method, items: list[list[Part]]) -> list[Embedding]:
        """Encode, with the callback event that LlamaIndex itself sends for texts and images."""
        payload: dict[str, Any] = {EventPayload.SERIALIZED: self.to_payload()}
        with self.callback_manager.event(CBEventType.EMBEDDING, payload=payload) as event:
            embeddings = self._encode_media(method, items)
            event.on_end(payload={EventPayload.CHUNKS: _chunks(items), EventPayload.EMBEDDINGS: embeddings})
        return embeddings

    def _encode_media(self, method: _Method, items: list[list[Part]]) -> list[Embedding]:
        """Encode, with the instrumentation events that LlamaIndex sends for texts only."""
        dispatcher.event(EmbeddingStartEvent(model_dict=self.to_payload()))
        embeddings = self._encode(method, items)
        dispatcher.event(EmbeddingEndEvent(chunks=_chunks(items), embeddings=embeddings))
        return embeddings

    def _encode(self, method: _Method, items: list[list[Part]]) -> list[Embedding]:
        """Encode one batch into D floats per item."""
        with self._model.using(self._to_load) as encoder:
            chats = [as_chat(parts, encoder) for parts in items]
            options = self._options(encoder)
            prompt: dict[str, Any] = {"prompt_name": document_prompt_name(encoder.prompts)}
            if method == "encode_query":
                prompt = {"prompt_name": query_prompt_name(encoder.prompts)}
                if self.query_instruction is not None:
                    prompt = {"prompt": self.query_instruction}
            try:
                return [vector.tolist() for vector in encoder.embed(chats, **prompt, **options)]  # (D,) float32 each
            except TTEError as error:  # the index of the item in this batch is of no use to the caller
                raise error.__cause__ if isinstance(error.__cause__, TTEError) else error from None

    def _options(self, encoder: TTEEncoder) -> dict[str, Any]:
        image_size(encoder.processor, self.max_pixels)
        options: dict[str, Any] = {"batch_tokens": self.batch_tokens}
        largest = {"think_budget": encoder.max_budget, "dim": encoder.get_embedding_dimension()}
        for name, most in largest.items():
            value = getattr(self, name)
            if value is not None and most is not None and value > most:
                raise InputError(
                    f"{name} is {value}, but the model {self.model_name!r} has {most}; give {most} or less"
                )
        if self.dim is not None:
            options |= {"truncate_dim": self.dim, "normalize_embeddings": True}
        return options


def _with_source(node: BaseNode) -> BaseNode:
    """Give a node a source, itself, unless it has one: vector stores delete by the id of the source."""
    if node.source_node is not None:
        return node
    itself = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=node.node_id)}
    return node.model_copy(update={"relationships": {**node.relationships, **itself}})


def _chunks(items: list[list[Part]]) -> list[str]:
    return [" ".join(name_of(part) for part in parts) for parts in items]
