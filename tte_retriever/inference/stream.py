"""Any iterable in, results in the same order out: preparation in the background, a bounded window of items ahead."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from tte_retriever.errors import InputError, MediaError, TTEError
from tte_retriever.inference.batches import pack
from tte_retriever.inference.collate import token_count

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

Features = dict[str, Any]
Result = TypeVar("Result")

_WORKERS = 2
_WINDOW_BATCHES = 8
"""A window closes at this many full batches, so that large pictures do not fill the memory."""


def stream(
    items: Iterable[Any],
    prepare: Callable[[Any], Features],
    encode: Callable[[list[Features]], Sequence[Result]],
    *,
    batch_tokens: int,
    look_ahead: int,
) -> Iterator[Result | TTEError]:
    """Encode items as they come.

    Items are taken from the iterable in the caller's thread, prepared in background threads while the model computes,
    and sorted by true length inside a window.

    Args:
        items: Any iterable, endless ones included.
        prepare: One item to its features; called in background threads.
        encode: Features of a batch to one result each; called in the caller's thread.
        batch_tokens: Most padded tokens in a batch; an item that is longer goes alone.
        look_ahead: Most items taken from the iterable and not yet yielded.

    Yields:
        For each item its result, or the error that ``prepare`` raised for it, which names the item's index.
    """
    source = enumerate(items)
    in_flight = max(1, look_ahead // 4)
    window_size = max(1, look_ahead - in_flight)
    pending: deque[tuple[int, Future[Features]]] = deque()
    pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="tte-prepare")

    def top_up(room: int) -> None:
        for index, item in islice(source, max(0, min(in_flight, room) - len(pending))):
            pending.append((index, pool.submit(prepare, item)))

    try:
        while True:
            window: list[Features | TTEError] = []
            tokens = 0
            while len(window) < window_size and tokens < _WINDOW_BATCHES * batch_tokens:
                top_up(look_ahead - len(window))
                if not pending:
                    break
                index, future = pending.popleft()
                try:
                    features: Features | TTEError = future.result()
                    tokens += token_count(features)  # type: ignore[arg-type]
                except TTEError as error:
                    features = _named(error, index)
                window.append(features)
            if not window:
                return
            rows = [row for row, features in enumerate(window) if not isinstance(features, TTEError)]
            results: list[Any] = list(window)
            for batch in pack([token_count(results[row]) for row in rows], batch_tokens):
                top_up(look_ahead - len(window))
                chosen = [rows[index] for index in batch]
                for row, result in zip(chosen, encode([results[row] for row in chosen]), strict=True):
                    results[row] = window[row] = result  # type: ignore[call-overload]  # frees the features
            yield from results
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _named(error: TTEError, index: int) -> TTEError:
    message = f"Item {index} cannot be encoded: {error}"
    named = MediaError(message, error.reason) if isinstance(error, MediaError) else InputError(message)
    named.__cause__ = error
    return named
