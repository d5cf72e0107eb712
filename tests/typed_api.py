"""The public API in use, with annotations: mypy checks this file (``make type``), and nothing runs it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llama_index.embeddings.tte import MediaQuery, TTEEmbedding, TTEMediaReader, TTERetriever, VideoClip

from tte_retriever import MediaError, MediaLimits, TTEEncoder, TTEError, build, model_path
from tte_retriever.training import read_config, train
from tte_retriever_qdrant import ingest, open_store, search
from tte_retriever_qdrant.filters import And, Not, Range
from tte_retriever_qdrant.stores import open_generation, open_generations, updating

if TYPE_CHECKING:
    import numpy as np
    from llama_index.core.schema import NodeWithScore

    from tte_retriever_qdrant.filters import Filter
    from tte_retriever_qdrant.ingestion import Report
    from tte_retriever_qdrant.records import CollectionSpec, GenerationInfo, Hit, Point
    from tte_retriever_qdrant.searching import SearchHit
    from tte_retriever_qdrant.stores import GenerationalStore, VectorStore


def encode() -> np.ndarray:
    encoder = TTEEncoder(model_path("tte-flash-tiny"), media_limits=MediaLimits(max_pixels=1_000_000))
    vectors: np.ndarray = encoder.encode_query([{"text": "a red circle"}], think_budget=8)
    fingerprint: str = encoder.fingerprint
    try:
        return encoder.encode_document([{"image": Path(f"{fingerprint}.png")}])
    except MediaError as error:
        reason: str = error.reason
        raise TTEError(reason) from error
    finally:
        assert len(vectors) == 1


def build_and_train() -> Path:
    model: Path = build("model", backbone="Qwen/Qwen3-VL-2B-Instruct", method="tte-flash", think_tokens=16)
    return train(read_config("config.yaml", [f"model={model}", "max_steps=2"]))


def index_and_search(encoder: TTEEncoder, images: Filter) -> list[SearchHit]:
    with open_store("edge://store") as store:
        report: Report = ingest("folder", store, encoder, model_name="tte-flash-tiny", workers=1)
        assert report.points == store.count(images)
        wanted: Filter = And(({"modality": ["image", "page"]}, Not(Range("page", gte=2))))
        return search(store, encoder, text="a red circle", image=Path("red.png"), top_k=3, filter=wanted, clips=True)


def nearest(store: VectorStore, vector: np.ndarray) -> Hit:
    """A store of any engine is a ``VectorStore``."""
    return store.search(vector, limit=1, exact=True)[0]


def replace(store: GenerationalStore, spec: CollectionSpec, points: list[Point]) -> list[GenerationInfo]:
    with store.begin_generation(spec) as new, open_generation("edge://other", spec) as other:
        new.upsert(points)
        new.finalize()
        new.commit()
        nearest(other, points[0].vector)
    store.rollback()
    with updating("edge://store", spec) as updated:
        updated.delete([point.id for point in points])
    with open_generations("edge://store") as generations:
        generations.drop("previous")
        return generations.listed()


def llama_index(embedding: TTEEmbedding) -> list[NodeWithScore]:
    vector: list[float] = embedding.get_video_embedding(VideoClip("film.mp4", start_s=6.0, end_s=12.0))
    nodes = embedding(TTEMediaReader(window_s=6.0).load_data("folder"))
    with TTERetriever("edge://store", "folder", embed_model=embedding, similarity_top_k=len(nodes)) as retriever:
        assert len(vector) == embedding.dim
        return retriever.retrieve(MediaQuery("the same in blue", image="red.png"))
