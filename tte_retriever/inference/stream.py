"""Encode an iterable in order: items are prepared in the background, in a window of bounded size."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from tte_retriever.errors import InputError, MediaError, TTEError
from tte_retriever.inference.batches import pack
from tte_retriever.inference.collate import token_count
from tte_retriever.isolation import run_isolated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from tte_retriever.inference.collate import Features

Result = TypeVar("Result")

_WORKERS = 2
_GROUP = 32
"""Items that are prepared together: most of the work of a processor is per call, not per text."""
_WINDOW_BATCHES = 8
"""The most full batches in a window, and prepared beyond it, so that large pictures do not fill the memory."""


def stream(
    items: Iterable[Any],
    prepare: Callable[[Sequence[Any]], list[Features]],
    encode: Callable[[list[Features]], Sequence[Result | Exception]],
    *,
    batch_tokens: int,
    look_ahead: int,
) -> Iterator[Result | Exception]:
    """Encode items in their order.

    Items are taken from the iterable in the caller's thread, prepared in background threads while the model computes,
    and sorted by length within a window. While one window is encoded, the next is prepared.

    Args:
        items: Any iterable, also an endless one.
        prepare: Maps items to their features; called in background threads.
        encode: Maps the features of a batch to one result or error for each item; called in the caller's thread.
        batch_tokens: The most tokens in a batch, padding included. A longer item gets a batch of its own.
        look_ahead: The most items that are taken from the iterable and not yet yielded.

    Yields:
        For each item its result, the error that ``prepare`` raised for it, or the error that ``encode`` returned for it.
        The message of a ``TTEError`` names the index of the item.

    Example:
        >>> from tte_retriever import TTEEncoder
        >>> from tte_retriever.inference import BatchEmbedder
        >>> embedder = BatchEmbedder(TTEEncoder("tte-flash-tiny", device="cpu"))
        >>> results = stream(["two", "a red circle"], embedder.prepare, embedder.embed, batch_tokens=512, look_ahead=8)
        >>> [vector.shape for vector in results]
        [(128,), (128,)]
    """
    source = iter(items)
    most_tokens = _WINDOW_BATCHES * batch_tokens
    pending: deque[tuple[int, Future[list[Features | Exception]]]] = deque()  # groups and their sizes
    window: list[Any] = []  # features that become results, or errors
    yielded = 0
    pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="tte-prepare")

    def top_up() -> None:
        held = len(window) + sum(size for size, _ in pending)
        while sum(_tokens(future.result()) for _, future in pending if future.done()) < most_tokens and (
            group := list(islice(source, min(_GROUP, look_ahead - held)))
        ):
            # Errors of single items are raised by the caller, after the results before them.
            pending.append((len(group), pool.submit(run_isolated, prepare, group, Exception)))
            held += len(group)

    try:
        while True:
            while len(window) < max(1, look_ahead // 2) and _tokens(window) < most_tokens:
                top_up()
                if not pending:
                    break
                window += pending.popleft()[1].result()
            if not window:
                return
            window[:] = [_named(row, yielded + index) for index, row in enumerate(window)]
            rows = [index for index, row in enumerate(window) if not isinstance(row, Exception)]
            for batch in pack([token_count(window[row]) for row in rows], batch_tokens):
                top_up()
                chosen = [rows[index] for index in batch]
                for row, result in zip(chosen, encode([window[row] for row in chosen]), strict=True):
                    window[row] = _named(result, yielded + row)  # the features are freed
            yield from window
            yielded += len(window)
            window.clear()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _tokens(rows: Sequence[Features | Exception]) -> int:
    return sum(token_count(row) for row in rows if not isinstance(row, Exception))


def _named(row: Result | Exception, index: int) -> Result | Exception:
    if not isinstance(row, TTEError):
        return row
    message = f"Item {index} cannot be encoded: {row}"
    named = MediaError(message, row.reason) if isinstance(row, MediaError) else InputError(message)
    named.__cause__ = row
    return named
