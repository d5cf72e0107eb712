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

    from tte_retriever.inference.collate import Features

Result = TypeVar("Result")

_WORKERS = 2
_GROUP = 32
"""Items that are prepared together: most of what a processor does for one text, it does once a call."""
_WINDOW_BATCHES = 8
"""Neither a window nor what is prepared beyond it goes over this many full batches, so that large pictures do not fill
the memory."""


def stream(
    items: Iterable[Any],
    prepare: Callable[[Sequence[Any]], list[Features]],
    encode: Callable[[list[Features]], Sequence[Result | Exception]],
    *,
    batch_tokens: int,
    look_ahead: int,
) -> Iterator[Result | Exception]:
    """Encode items as they come.

    Items are taken from the iterable in the caller's thread, prepared in background threads while the model computes,
    and sorted by true length inside a window. While one window is encoded, the next is prepared.

    Args:
        items: Any iterable, endless ones included.
        prepare: Items to the features of each; called in background threads.
        encode: Features of a batch to one result, or error, each; called in the caller's thread.
        batch_tokens: Most padded tokens in a batch; an item that is longer goes alone.
        look_ahead: Most items taken from the iterable and not yet yielded.

    Yields:
        For each item its result, or the error that ``prepare`` raised or ``encode`` gave for it; a ``TTEError`` names the
        item's index.
    """
    source = iter(items)
    most_tokens = _WINDOW_BATCHES * batch_tokens
    pending: deque[tuple[int, Future[list[Features | Exception]]]] = deque()  # groups, and how many items each has
    window: list[Any] = []  # features, which become results; or errors
    yielded = 0
    pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="tte-prepare")

    def top_up() -> None:
        held = len(window) + sum(size for size, _ in pending)
        while sum(_tokens(future.result()) for _, future in pending if future.done()) < most_tokens and (
            group := list(islice(source, min(_GROUP, look_ahead - held)))
        ):
            pending.append((len(group), pool.submit(_prepared, prepare, group)))
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


def _prepared(prepare: Callable[[Sequence[Any]], list[Features]], group: Sequence[Any]) -> list[Features | Exception]:
    """Features of each item; one that cannot be prepared does not take the others with it."""
    try:
        return [*prepare(group)]
    except Exception as error:  # whatever it is, it is raised in its turn, after the results before it
        return [error] if len(group) == 1 else [row for item in group for row in _prepared(prepare, [item])]


def _tokens(rows: Sequence[Features | Exception]) -> int:
    return sum(token_count(row) for row in rows if not isinstance(row, Exception))


def _named(row: Result | Exception, index: int) -> Result | Exception:
    if not isinstance(row, TTEError):
        return row
    message = f"Item {index} cannot be encoded: {row}"
    named = MediaError(message, row.reason) if isinstance(row, MediaError) else InputError(message)
    named.__cause__ = row
    return named
