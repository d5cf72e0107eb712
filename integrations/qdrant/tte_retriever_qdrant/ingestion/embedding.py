"""From decoded parts to vectors: streaming where the model can, and one bad item does not cost the others."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from tte_retriever.errors import InputError
from tte_retriever.sources.chunking import pixels
from tte_retriever_qdrant.encoder import StreamingEncoder
from tte_retriever_qdrant.stores.checks import check_vector

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np

    from tte_retriever.sources import Item
    from tte_retriever.sources.chunking import Chunk
    from tte_retriever_qdrant.encoder import Encoder
    from tte_retriever_qdrant.ingestion.reading import Outcome, Part

_MAX_PIXELS = 128_000_000  # with the model at a time, or little more: about 400 MB
_LOOK_AHEAD = 4  # batches
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")  # the order in which sentence-transformers looks for them


class Embedded(NamedTuple):
    """What the model made of a part: a vector (D,), float32, or the error for which it has none."""

    outcome: Outcome
    chunk: Chunk
    text: str
    vector: np.ndarray | InputError


class _Taken(NamedTuple):
    """What is remembered of a part while the model has its item."""

    outcome: Outcome
    chunk: Chunk
    text: str
    pixels: int


def embed(encoder: Encoder, parts: Iterator[Part], *, batch_size: int, dim: int) -> Iterator[Embedded]:
    """Encode parts as documents, in order.

    The model gets one stream, or a new one whenever it has so many pixels that their memory matters.

    Args:
        encoder: The model; one that is no ``StreamingEncoder`` gets batches.
        parts: Decoded parts.
        batch_size: Items per call of a model that does not stream; a stream is given four times as many in advance.
        dim: Length that vectors must have.
    """
    taken: deque[_Taken] = deque()
    ended = False

    def until_full() -> Iterator[Item]:
        nonlocal ended
        for part in parts:
            taken.append(_Taken(part.outcome, part.chunk, part.item.get("text", ""), pixels(part.item)))
            yield part.item
            if sum(each.pixels for each in taken) >= _MAX_PIXELS:
                return
        ended = True

    while not ended:
        if isinstance(encoder, StreamingEncoder):
            results = _streamed(encoder, until_full(), batch_size)
        else:
            results = _batched(encoder, until_full(), batch_size)
        for result in results:
            outcome, chunk, text, _ = taken.popleft()
            yield Embedded(outcome, chunk, text, result if isinstance(result, InputError) else _checked(result, dim))


def _streamed(encoder: StreamingEncoder, items: Iterable[Item], batch_size: int) -> Iterator[np.ndarray | InputError]:
    prompt_name = next((name for name in _DOCUMENT_PROMPTS if name in encoder.prompts), None)
    for result in encoder.embed(items, look_ahead=_LOOK_AHEAD * batch_size, prompt_name=prompt_name, on_error="yield"):
        if isinstance(result, InputError):  # its cause does not count the items of a stream that nobody sees
            yield result.__cause__ if isinstance(result.__cause__, InputError) else result
        elif isinstance(result, Exception):  # no fault of the item's
            raise result
        else:
            yield result


def _batched(encoder: Encoder, items: Iterable[Item], batch_size: int) -> Iterator[np.ndarray | InputError]:
    items = iter(items)
    while batch := list(islice(items, batch_size)):
        yield from _batch(encoder, batch)


def _batch(encoder: Encoder, items: Sequence[Item]) -> list[np.ndarray | InputError]:
    try:
        return [*encoder.encode_document(list(items), batch_size=len(items), show_progress_bar=False)]
    except InputError as error:
        return [error] if len(items) == 1 else [result for item in items for result in _batch(encoder, [item])]


def _checked(vector: np.ndarray, dim: int) -> np.ndarray | InputError:
    try:
        return check_vector(vector, dim, "this item")
    except InputError as error:
        return error
