"""Keep one bad item from failing its batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Item = TypeVar("Item")
Result = TypeVar("Result")
Error = TypeVar("Error", bound=Exception)


def run_isolated(
    run: Callable[[Sequence[Item]], Iterable[Result]], items: Sequence[Item], error: type[Error]
) -> list[Result | Error]:
    """Run a batch; if it fails, run its items one by one.

    Args:
        run: Maps items to one result each.
        items: The batch.
        error: The class of errors that may come from a single item. Any other error propagates.

    Returns:
        For each item its result, or the error that it raises alone.

    Example:
        >>> run_isolated(lambda items: [1 / item for item in items], [1, 0, 4], ZeroDivisionError)
        [1.0, ZeroDivisionError('division by zero'), 0.25]
    """
    try:
        return [*run(items)]
    except error as caught:
        if len(items) == 1:
            return [caught]
        return [result for item in items for result in run_isolated(run, [item], error)]
