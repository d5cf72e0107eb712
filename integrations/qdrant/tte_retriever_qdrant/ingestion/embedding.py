"""From decoded chunks to vectors: in one stream where the model can, and a bad item fails alone."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from tte_retriever.errors import InputError
from tte_retriever.isolation import run_isolated
from tte_retriever.prompts import document_prompt_name
from tte_retriever.sources import pixels
from tte_retriever_qdrant.encoder import StreamingEncoder
from tte_retriever_qdrant.stores.checks import check_vector

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np

    from tte_retriever.sources import Chunk, Item
    from tte_retriever_qdrant.encoder import Encoder
    from tte_retriever_qdrant.ingestion.decoding import DecodedChunk
    from tte_retriever_qdrant.ingestion.state import FileState

_MAX_PIXELS = 128_000_000  # held by the model at a time, or a little more: about 400 MB
_LOOK_AHEAD = 4  # batches


class EmbeddedChunk(NamedTuple):
    """A chunk of a file with its vector (D,), float32, or with the error for which it has none."""

    file: FileState
    chunk: Chunk
    text: str
    vector: np.ndarray | InputError


def embed(encoder: Encoder, chunks: Iterator[DecodedChunk], *, batch_size: int, dim: int) -> Iterator[EmbeddedChunk]:
    """Encode chunks as documents, in order.

    The model gets one stream, or a new one whenever it holds so many pixels that their memory matters.

    Args:
        encoder: The model; one that is not a ``StreamingEncoder`` gets batches.
        chunks: Decoded chunks.
        batch_size: Items per call of a model that does not stream; a stream looks ahead by four times as many.
        dim: Length that vectors must have.
    """
    sent: deque[tuple[FileState, Chunk, str, int]] = deque()  # without the items, whose memory is the model's
    has_ended = False

    def until_full() -> Iterator[Item]:
        nonlocal has_ended
        for file, chunk, item in chunks:
            sent.append((file, chunk, item.get("text", ""), pixels(item)))
            yield item
            if sum(count for *_, count in sent) >= _MAX_PIXELS:
                return
        has_ended = True

    while not has_ended:
        for result in _encode(encoder, until_full(), batch_size):
            file, chunk, text, _ = sent.popleft()
            vector = result if isinstance(result, InputError) else _checked(result, dim)
            yield EmbeddedChunk(file, chunk, text, vector)


def _encode(encoder: Encoder, items: Iterable[Item], batch_size: int) -> Iterator[np.ndarray | InputError]:
    if isinstance(encoder, StreamingEncoder):
        yield from _encode_stream(encoder, items, batch_size)
        return

    def encode(batch: Sequence[Item]) -> np.ndarray:
        return encoder.encode_document(list(batch), batch_size=len(batch), show_progress_bar=False)

    items = iter(items)
    while batch := list(islice(items, batch_size)):
        yield from run_isolated(encode, batch, InputError)


def _encode_stream(
    encoder: StreamingEncoder, items: Iterable[Item], batch_size: int
) -> Iterator[np.ndarray | InputError]:
    prompt_name = document_prompt_name(encoder.prompts)
    for result in encoder.embed(items, look_ahead=_LOOK_AHEAD * batch_size, prompt_name=prompt_name, on_error="yield"):
        if isinstance(result, InputError):  # its cause does not mention a position in a stream that nobody sees
            yield result.__cause__ if isinstance(result.__cause__, InputError) else result
        elif isinstance(result, Exception):  # not the fault of the item
            raise result
        else:
            yield result


def _checked(vector: np.ndarray, dim: int) -> np.ndarray | InputError:
    try:
        return check_vector(vector, dim, "this item")
    except InputError as error:
        return error
