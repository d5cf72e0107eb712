"""A worker loads the model to describe its vectors, since the machine that starts the run may lack the memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import ray

from tte_retriever_qdrant.distributed.cluster import connected, own_errors, share_out
from tte_retriever_qdrant.encoder import spec_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tte_retriever.media import VideoSampling
    from tte_retriever_qdrant.encoder import Encoder
    from tte_retriever_qdrant.records import CollectionSpec


@dataclass(frozen=True)
class Description:
    """What a run needs of a model before it embeds.

    Attributes:
        spec: What a collection of its vectors holds.
        sampling: Which frames of a video it sees.

    Example:
        >>> from tte_retriever.media import VideoSampling
        >>> from tte_retriever_qdrant.records import CollectionSpec
        >>> Description(CollectionSpec(128, "fingerprint", "tte-flash-tiny"), VideoSampling()).spec.dim
        128
    """

    spec: CollectionSpec
    sampling: VideoSampling


def describe_on_ray(
    load_encoder: Callable[[], Encoder], *, model_name: str = "", address: str | None = None, models: int | None = None
) -> Description:
    """Let a worker load a model and describe it, so that a store or a generation can be opened for its vectors.

    Args:
        load_encoder: Loads the model; it must be possible to pickle it.
        model_name: Name or folder by which the model can be loaded again.
        address: As of :func:`ingest_on_ray`.
        models: As of :func:`ingest_on_ray`.

    Raises:
        InputError: The cluster is too small, or the model does not say how long its vectors are.
        TTEError: The cluster failed.

    Example:
        >>> from functools import partial
        >>> from tte_retriever import TTEEncoder
        >>> describe_on_ray(partial(TTEEncoder, "tte-flash-tiny")).spec.dim  # doctest: +SKIP
        128
    """
    with connected(address):
        resources = share_out(None, models).model_resources
        # The process ends after one call; otherwise it would keep the memory of the GPU.
        remotely = ray.remote(max_calls=1, **resources)(_describe)
        with own_errors():
            return ray.get(remotely.remote(load_encoder, model_name))


def _describe(load_encoder: Callable[[], Encoder], model_name: str) -> Description:
    encoder = load_encoder()
    return Description(spec_of(encoder, model_name), encoder.video_sampling)
