"""Search a store by text, an image, a video, or a mixture of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tte_retriever.errors import InputError
from tte_retriever.media import load_image, load_video
from tte_retriever_qdrant.encoder import query_options, spec_of
from tte_retriever_qdrant.errors import StoreNotFound
from tte_retriever_qdrant.filters import Filter, filter_keys
from tte_retriever_qdrant.moments import merge_moments
from tte_retriever_qdrant.records import PAYLOAD_FIELDS
from tte_retriever_qdrant.stores.checks import check_limit, check_same_model
from tte_retriever_qdrant.stores.indexing import candidates

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tte_retriever.media import ImageLike, VideoLike
    from tte_retriever.sources import Modality
    from tte_retriever_qdrant.encoder import Encoder
    from tte_retriever_qdrant.records import Hit
    from tte_retriever_qdrant.stores import VectorStore


@dataclass(frozen=True)
class SearchHit:
    """A chunk found by a search.

    Attributes:
        rank: 1 for the best.
        score: Cosine similarity to the query, -1 to 1.
        uri: Path of the file under the folder that was indexed.
        modality: ``image``, ``page``, ``video`` or ``text``.
        asset_id: SHA-256 of the file's bytes.
        page: Of a document, the page number, from 1.
        start_s: Of a video, the start of the moment or clip, in seconds.
        end_s: Of a video, its end, in seconds.
        text: Of a text file, the text of the chunk: all of a short file, or a window.
    """

    rank: int
    score: float
    uri: str
    modality: Modality
    asset_id: str
    page: int | None = None
    start_s: float | None = None
    end_s: float | None = None
    text: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The fields that apply, for JSON."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def search(
    store: VectorStore,
    encoder: Encoder,
    *,
    text: str | None = None,
    image: ImageLike | None = None,
    video: VideoLike | None = None,
    instruction: str | None = None,
    top_k: int = 10,
    filter: Filter | None = None,
    per_asset: bool = False,
    clips: bool = False,
    exact: bool = False,
) -> list[SearchHit]:
    """Find the chunks that are nearest to a query.

    Args:
        store: An open store.
        encoder: The model that the store was made with. Its think budget and pixel limit are those of the query; without
            them, they are those of the collection.
        text: What to look for, or a question about the media.
        image: A path, bytes, a PIL image or an array.
        video: A path, bytes, frames or an array.
        instruction: What is searched for, such as "Find the page that answers the question."; it becomes the system
            message of the query. ``None`` is the model's own prompt for queries.
        top_k: Most hits to return.
        filter: Keys of ``PAYLOAD_FIELDS`` with the value, or a list of the values, that a hit may have; or a ``Range``,
            ``And``, ``Or`` or ``Not`` of :mod:`tte_retriever_qdrant.filters`.
        per_asset: Whether to return only the best page, moment or clip of every file.
        clips: Whether to merge neighbouring moments of a video, as
            :func:`~tte_retriever_qdrant.moments.merge_moments` does.
        exact: Whether to compare every vector, without the index.

    Returns:
        Hits, best first.

    Raises:
        InputError: There is neither text nor media, ``top_k`` is below 1, or ``filter`` cannot be applied.
        MediaError: The image or the video cannot be used.
        ModelMismatch: The store was made with another model.
        StoreNotFound: Nothing is indexed yet.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from PIL import Image
        >>> from tte_retriever import TTEEncoder
        >>> from tte_retriever_qdrant import ingest, open_store, search
        >>> encoder = TTEEncoder("tte-flash-tiny")
        >>> with TemporaryDirectory() as folder, open_store("memory://") as store:
        ...     Image.new("RGB", (96, 96), "red").save(f"{folder}/red.png")
        ...     _ = ingest(folder, store, encoder)
        ...     [hit] = search(store, encoder, text="a red circle")
        >>> hit.rank, hit.uri, hit.modality
        (1, 'red.png', 'image')
    """
    check_limit(top_k)
    if unknown := filter_keys(filter) - set(PAYLOAD_FIELDS):  # an engine would return no hits and no error
        raise InputError(f"the filter key {min(unknown)!r} is unknown; filter by {', '.join(PAYLOAD_FIELDS)}")
    if store.spec is None:
        raise StoreNotFound("the store holds nothing yet; index something first")
    check_same_model(store.spec, spec_of(encoder), "the store")
    query: dict[str, Any] = {}
    if image is not None:
        query["image"] = load_image(image)
    if video is not None:
        query["video"] = load_video(video, sampling=encoder.video_sampling)
    if text is not None and text.strip():
        query["text"] = text
    if not query:
        raise InputError("the query has neither text nor media; give a text, an image or a video")
    options = query_options(encoder, store.spec) | ({} if instruction is None else {"prompt": instruction})
    vector = np.asarray(encoder.encode_query([query], batch_size=1, show_progress_bar=False, **options))[0]
    steps = [step for step, wanted in ((merge_moments, clips), (_best_of_each, per_asset)) if wanted]
    found = _nearest(store, vector, top_k, filter, steps, exact=exact)
    return [
        SearchHit(
            rank, hit.score, **{key: value for key, value in hit.payload.items() if key in (*PAYLOAD_FIELDS, "text")}
        )
        for rank, hit in enumerate(found, start=1)
    ]


def best_per_asset(store: VectorStore, vector: np.ndarray, limit: int, filter: Filter | None = None) -> list[Hit]:
    """The best hit of each of the ``limit`` assets nearest to ``vector`` (D,), best first."""
    check_limit(limit)
    return _nearest(store, vector, limit, filter, [_best_of_each])


def _nearest(
    store: VectorStore,
    vector: np.ndarray,
    limit: int,
    filter: Filter | None,
    steps: Sequence[Callable[[Sequence[Hit]], list[Hit]]],
    *,
    exact: bool = False,
) -> list[Hit]:
    """The best hits after ``steps``, each of which reduces a list of hits."""
    asked = candidates(limit) if steps else limit
    while True:  # fetch more while a few assets take all places
        found = kept = store.search(vector, asked, filter, exact=exact)
        for step in steps:
            kept = step(kept)
        if len(kept) >= limit or len(found) < asked:
            return kept[:limit]
        asked *= 4


def _best_of_each(hits: Sequence[Hit]) -> list[Hit]:
    best: dict[str, Hit] = {}
    for hit in hits:
        best.setdefault(hit.payload.get("asset_id", hit.id), hit)
    return list(best.values())
