"""Search a store with the demo's questions and mark the answers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tte_retriever_qdrant.searching import SearchHit, search

if TYPE_CHECKING:
    from tte_retriever_qdrant.demo.folder import Question
    from tte_retriever_qdrant.encoder import Encoder
    from tte_retriever_qdrant.stores import VectorStore

SHOWN = 3
"""Hits that are kept per question."""


@dataclass(frozen=True)
class Answer:
    """A question with its hits.

    Attributes:
        question: What was asked.
        hits: The best hits, best first.
        milliseconds: From the query to the hits: decoding, encoding and searching.
    """

    question: Question
    hits: list[SearchHit]
    milliseconds: float

    @property
    def correct(self) -> bool:
        """Whether the first hit is the expected one."""
        return bool(self.hits) and is_expected(self.hits[0], self.question.expected)

    def as_dict(self) -> dict[str, Any]:
        """One JSON object: ``query, kind, expected, hits, correct`` and more."""
        question = self.question
        query = {"text": question.text, **({"image": question.image.name} if question.image else {})}
        return {
            "query": query,
            "kind": question.kind,
            "expected": question.expected,
            "hits": [hit.as_dict() for hit in self.hits],
            "correct": self.correct,
            "milliseconds": round(self.milliseconds, 1),
        }


def is_expected(hit: SearchHit, expected: dict[str, Any]) -> bool:
    """Whether a hit is the file, the page and the moment that were asked for."""
    return all(getattr(hit, field) == value for field, value in expected.items())


def ask(store: VectorStore, encoder: Encoder, question: Question) -> Answer:
    """Search the answer to one question among the points of its modality."""
    started = time.perf_counter()
    hits = search(
        store, encoder, text=question.text, image=question.image, top_k=SHOWN, filter={"modality": question.modality}
    )
    return Answer(question, hits, 1000 * (time.perf_counter() - started))


def correct_by_kind(answers: list[Answer]) -> dict[str, tuple[int, int]]:
    """Kind → (right, asked), in the order in which the kinds were asked."""
    counts: dict[str, tuple[int, int]] = {}
    for answer in answers:
        right, asked = counts.get(answer.question.kind, (0, 0))
        counts[answer.question.kind] = (right + answer.correct, asked + 1)
    return counts
