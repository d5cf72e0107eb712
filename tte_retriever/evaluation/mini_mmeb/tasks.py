"""The tasks of mini-MMEB: one row each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from tte_retriever.errors import InputError

from . import documents, images, videos

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tte_retriever.small_world import Split

    from .pools import Pool

SuiteSplit = Literal["iid", "held-out", "validation"]
"""``iid`` and ``held-out`` are for reporting, ``validation`` is for choosing."""
SPLITS: tuple[SuiteSplit, ...] = get_args(SuiteSplit)


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: Unique.
        modality: ``image``, ``video`` or ``document``, as MMEB-v2 groups them.
        family: The meta-task within the modality.
        metric: One of :data:`~.metrics.METRICS`.
        query: Modalities of a query, in alphabetical order.
        candidate: Modalities of a candidate.
        draw: Function of the split of the small world, the seed and the number of queries; returns pools.
    """

    name: str
    modality: str
    family: str
    metric: str
    query: tuple[str, ...]
    candidate: tuple[str, ...]
    draw: Callable[[Split, int, int], list[Pool]]

    def pools(self, split: SuiteSplit, seed: int, count: int) -> list[Pool]:
        """Draw ``count`` queries with their candidates; the same arguments give the same pools."""
        return self.draw("test" if split == "iid" else split, seed, count)


_T, _I, _V = ("text",), ("image",), ("video",)
_IT, _TV = ("image", "text"), ("text", "video")

TASKS: tuple[Task, ...] = (
    Task("image-classification", "image", "classification", "hit@1", _IT, _T, images.classification),
    Task("image-question-answering", "image", "question-answering", "hit@1", _IT, _T, images.question_answering),
    Task("text-to-image-retrieval", "image", "retrieval", "hit@1", _T, _I, images.text_to_image),
    Task("image-to-text-retrieval", "image", "retrieval", "hit@1", _I, _T, images.image_to_text),
    Task("composed-image-retrieval", "image", "retrieval", "hit@1", _IT, _I, images.composed),
    Task("grounding", "image", "grounding", "hit@1", _IT, _I, images.grounding),
    Task("video-classification", "video", "classification", "hit@1", _TV, _T, videos.classification),
    Task("video-question-answering", "video", "question-answering", "hit@1", _TV, _T, videos.question_answering),
    Task("video-retrieval", "video", "retrieval", "hit@1", _T, _V, videos.retrieval),
    Task("moment-retrieval", "video", "moment-retrieval", "hit@1", _T, _V, videos.moment_retrieval),
    Task("page-retrieval", "document", "page-retrieval", "ndcg@5", _T, _I, documents.page_retrieval),
    Task("document-retrieval", "document", "document-retrieval", "ndcg@5", _T, _I, documents.document_retrieval),
)


def tasks_named(names: Sequence[str] | None) -> tuple[Task, ...]:
    """The tasks of these names, in the order of :data:`TASKS`; ``None`` is all of them.

    Raises:
        InputError: A name is unknown, or there are none.
    """
    known = [task.name for task in TASKS]
    wanted = known if names is None else list(names)
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        given = f"{unknown[0]!r} is no task of mini-mmeb" if unknown else "No task is named"
        raise InputError(f"{given}; there are {', '.join(known)}.")
    return tuple(task for task in TASKS if task.name in wanted)
