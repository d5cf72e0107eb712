"""Search a tte-retriever store from LlamaIndex, by text, image, video or a mixture of them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.constants import DEFAULT_SIMILARITY_TOP_K
from llama_index.core.schema import ImageNode, NodeRelationship, NodeWithScore, QueryBundle, RelatedNodeInfo, TextNode
from llama_index.embeddings.tte.base import TTEEmbedding
from llama_index.embeddings.tte.filters import store_filter
from llama_index.embeddings.tte.parts import video_part
from llama_index.embeddings.tte.reader import NOT_FOR_LLMS
from llama_index.embeddings.tte.reporting import report_bad
from llama_index.embeddings.tte.views import check_unchanged, view_of, views_folder

from tte_retriever.errors import InputError
from tte_retriever.media import load_image
from tte_retriever.sources import Chunk
from tte_retriever_qdrant import open_store
from tte_retriever_qdrant.errors import StoreNotFound
from tte_retriever_qdrant.locating import file_under
from tte_retriever_qdrant.records import CollectionSpec
from tte_retriever_qdrant.searching import best_per_asset
from tte_retriever_qdrant.stores.checks import check_limit, check_same_model

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import Embedding
    from llama_index.core.callbacks import CallbackManager
    from llama_index.core.vector_stores.types import MetadataFilters
    from llama_index.embeddings.tte.parts import Block, VideoType
    from PIL import Image
    from typing_extensions import Self

    from tte_retriever_qdrant.records import Hit
    from tte_retriever_qdrant.stores import VectorStore


@dataclass
class MediaQuery(QueryBundle):
    """A query with an image, a video or both, and optionally a text.

    Attributes:
        query_str: What to look for, or a question about the media.
        image: A path or a PIL image; of an animated image, the first frame.
        video: A path, open bytes, or a :class:`VideoClip`; an animated image is a video, too.

    Example:
        >>> from llama_index.embeddings.tte import MediaQuery
        >>> MediaQuery("the same in blue", image="red.png").query_str
        'the same in blue'
    """

    query_str: str = ""
    image: str | Path | Image.Image | None = None
    video: VideoType | None = None


class TTERetriever(BaseRetriever):
    """Finds images, pages, moments of videos and texts in a store that ``tte-retriever index`` or ``ingest`` made.

    Images are returned as ``ImageNode`` with their file, pages and moments as ``ImageNode`` with a picture that is drawn
    on first use, and texts as ``TextNode`` with the text that was indexed. All have the metadata of
    :class:`~llama_index.embeddings.tte.TTEMediaReader`, and ``ref_doc_id`` is the ``asset_id``. Hits whose file is gone,
    changed or broken are reported by a log warning and a ``BadMediaEvent``, and left out.

    A query is a ``str``, a :class:`MediaQuery`, or a ``QueryBundle``: its ``embedding`` if it has one, else its
    ``image_path`` together with its text.

    Args:
        store: URI of the store, as ``open_store`` takes it, or an open store.
        source: The folder that was indexed.
        embed_model: The model that the store was made with; ``None`` loads the model that the store names. Settings that
            it leaves open, the think budget and the pixel limit, are those of the collection.
        instruction: What is searched for, as the system message of queries; ``None`` is the model's own prompt.
        similarity_top_k: Most hits to return.
        filters: Conditions on ``uri``, ``modality``, ``asset_id``, ``page``, ``start_s`` and ``end_s``.
        group_by_asset: Whether to return only the best hit of each file.
        views_dir: Folder for pictures of pages and moments; ``None`` is a folder in LlamaIndex's cache.
        callback_manager: As for any retriever.
        verbose: As for any retriever.

    Raises:
        InputError: ``similarity_top_k`` is below 1, or ``filters`` cannot be applied.
        StoreNotFound: There is no such store.
        StoreLocked: Another process has it open.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from llama_index.embeddings.tte import TTERetriever
        >>> from PIL import Image
        >>> from tte_retriever import TTEEncoder
        >>> from tte_retriever_qdrant import ingest, open_store
        >>> with TemporaryDirectory() as folder, open_store("memory://") as store:
        ...     Image.new("RGB", (96, 96), "red").save(f"{folder}/red.png")
        ...     _ = ingest(folder, store, TTEEncoder("tte-flash-tiny"), model_name="tte-flash-tiny")
        ...     [hit] = TTERetriever(store, folder).retrieve("a red circle")
        >>> hit.node.metadata["uri"]
        'red.png'
    """

    def __init__(
        self,
        store: str | VectorStore,
        source: str | Path,
        embed_model: TTEEmbedding | None = None,
        *,
        instruction: str | None = None,
        similarity_top_k: int = DEFAULT_SIMILARITY_TOP_K,
        filters: MetadataFilters | None = None,
        group_by_asset: bool = False,
        views_dir: str | Path | None = None,
        callback_manager: CallbackManager | None = None,
        verbose: bool = False,
    ) -> None:
        check_limit(similarity_top_k)
        self._filter = None if filters is None else store_filter(filters)
        self._source = Path(source).expanduser().resolve()
        self._embed_model, self._instruction = embed_model, instruction
        self._top_k = similarity_top_k
        self._group_by_asset = group_by_asset
        self._views = views_folder(views_dir)
        super().__init__(callback_manager=callback_manager, verbose=verbose)
        self._store = open_store(store, create=False) if isinstance(store, str) else store

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        vector = query_bundle.embedding or self._embed(query_bundle)
        found: list[NodeWithScore] = []
        for hit in self._search(np.asarray(vector, np.float32)):
            try:
                found.append(NodeWithScore(node=self._node(hit), score=hit.score))
            except InputError as error:
                report_bad(str(hit.payload.get("uri", hit.id)), error)
        return found

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)

    def _embed(self, query: QueryBundle) -> Embedding:
        model = self._model()
        media: list[Block] = [_image_block(query.image_path)] if query.image_path else []
        if isinstance(query, MediaQuery):
            media += [_image_block(query.image)] if query.image is not None else []
            media += [video_part(query.video)] if query.video is not None else []
        if media:
            return model.get_multimodal_query_embedding(
                [*media, *([query.query_str] if query.query_str.strip() else [])]
            )
        texts = [text for text in query.embedding_strs if text.strip()]
        if not texts:
            raise InputError("the query has neither text nor media; give a text, an image or a video")
        return model.get_agg_embedding_from_queries(texts) if len(texts) > 1 else model.get_query_embedding(texts[0])

    def _model(self) -> TTEEmbedding:
        spec = self._store.spec
        if spec is None:
            raise StoreNotFound("the store holds nothing yet; index something first")
        if self._embed_model is None:
            if not spec.model:
                raise InputError("the store does not name its model; give embed_model=TTEEmbedding(model_name=…)")
            self._embed_model = TTEEmbedding(model_name=spec.model)
        defaults = {"think_budget": spec.think_budget, "max_pixels": spec.max_pixels}
        model = self._embed_model.with_defaults(**defaults)
        if self._instruction is not None:
            model = model.model_copy(update={"query_instruction": self._instruction})
        documents = model.document_fingerprint
        wanted = CollectionSpec(model.dim or spec.dim, model.fingerprint, model.model_name, documents=documents)
        check_same_model(spec, wanted, "the store")
        return model

    def _search(self, vector: np.ndarray) -> list[Hit]:
        if self._group_by_asset:
            return best_per_asset(self._store, vector, self._top_k, self._filter)
        return self._store.search(vector, self._top_k, self._filter)

    def _node(self, hit: Hit) -> TextNode:
        metadata = {key: value for key, value in hit.payload.items() if key != "text"}
        source = RelatedNodeInfo(node_id=metadata["asset_id"])
        fields: dict[str, Any] = {
            "id_": hit.id,
            "metadata": metadata,
            "excluded_embed_metadata_keys": list(metadata),
            "excluded_llm_metadata_keys": NOT_FOR_LLMS,
            "relationships": {NodeRelationship.SOURCE: source},
        }
        if metadata["modality"] == "text":
            return TextNode(**fields, text=hit.payload.get("text", ""))
        path = file_under(self._source, metadata["uri"])
        metadata["file_path"] = str(path)
        if metadata["modality"] == "image":
            check_unchanged(path, metadata["asset_id"])
        else:
            chunk = Chunk(metadata["modality"], metadata.get("page"), metadata.get("start_s"), metadata.get("end_s"))
            path = view_of(path, chunk, metadata["asset_id"], self._views)
        return ImageNode(**fields, image_path=str(path))


def _image_block(image: str | Path | Image.Image) -> Block:
    """An image as a block; paths are loaded, since a ``str`` block is text and a ``Path`` block may be a video."""
    return load_image(Path(image)) if isinstance(image, (str, Path)) else image
