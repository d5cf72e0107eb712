"""Pools: queries that share their candidates, and the gain of each candidate for each query."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

    from tte_retriever.small_world.tasks import Description, Item

DrawnT = TypeVar("DrawnT")


@dataclass(frozen=True)
class Query:
    """One query.

    Attributes:
        item: Input of the model.
        kind: The sub-task, for scores per kind, such as ``color-of``.
        content: Content of its pixels in words; empty for text alone.
    """

    item: Item
    kind: str
    content: str = ""


@dataclass(frozen=True)
class Candidate:
    """One candidate.

    Attributes:
        item: Input of the model.
        content: Content of its pixels in words; empty for text alone.
    """

    item: Item
    content: str = ""


@dataclass(frozen=True)
class Pool:
    """Queries over one set of candidates.

    Attributes:
        queries: B queries.
        candidates: N candidates.
        gains: 1 where a candidate answers a query, else 0.  (B, N) int8
    """

    queries: Sequence[Query]
    candidates: Sequence[Candidate]
    gains: np.ndarray


def gains_of(accepts: Sequence[Callable[[Any], bool]], contents: Sequence[Any]) -> np.ndarray:
    """1 where a query accepts a content, else 0.  (B, N) int8."""
    return np.array([[accept(content) for content in contents] for accept in accepts], np.int8)


def description_pool(
    described: Sequence[tuple[str, Description]], candidates: Sequence[Candidate], contents: Sequence[Any]
) -> Pool:
    """One query for each description, with its kind; it accepts every candidate whose content it describes."""
    queries = [Query({"text": said.text}, kind) for kind, said in described]
    return Pool(queries, candidates, gains_of([said.matches for _, said in described], contents))


def answer_pool(queries: Sequence[Query], answers: Sequence[str], choices: Sequence[str]) -> Pool:
    """Queries with the right answer of each among the texts that are candidates."""
    candidates = [Candidate({"text": choice}) for choice in choices]
    return Pool(queries, candidates, gains_of([answer.__eq__ for answer in answers], choices))


def spread(choices: Sequence[DrawnT], count: int) -> list[DrawnT]:
    """``count`` values that take turns, so that their numbers differ by one at most."""
    return [choices[index % len(choices)] for index in range(count)]


def parts(count: int, most: int) -> list[int]:
    """Split ``count`` into parts of ``most`` and a remainder."""
    return [min(most, count - start) for start in range(0, count, most)]


def balanced(wanted: Iterable[Hashable], draws: Iterator[DrawnT], key: Callable[[DrawnT], Hashable]) -> list[DrawnT]:
    """Take from an endless stream until every wanted key has occurred as often as it is wanted."""
    room = Counter(wanted)

    def fitting() -> Iterator[DrawnT]:
        for drawn in draws:
            if room[key(drawn)] > 0:
                room[key(drawn)] -= 1
                yield drawn

    return list(islice(fitting(), room.total()))
