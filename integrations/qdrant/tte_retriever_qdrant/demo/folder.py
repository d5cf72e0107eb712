"""A drawn folder of images, documents, videos and texts, and questions about it with exactly one right answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tte_retriever.small_world import ANSWERS, CLIP_S, Pair, draw_pairs
from tte_retriever.small_world.files import write_gif, write_image, write_mp4, write_pdf
from tte_retriever.small_world.tasks import EDITS_PER_SCENE, page_pair, rngs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_ASKED = 5
"""Questions of each kind."""
_CAPTIONED, _QUESTIONED, _EDITED = 18, 6, 5
_PDFS, _PAGES_PER_PDF = 6, 4
_VIDEOS, _CLIPS_PER_VIDEO, _GIFS = 4, 4, 4

KINDS = {
    "caption → image": "image",
    "question + image → answer": "text",
    "edited image → image": "image",
    "description → PDF page": "page",
    "description → video moment": "video",
}
"""Kind of question → the modality that is searched."""


@dataclass(frozen=True)
class Question:
    """One question about the folder.

    Attributes:
        kind: One of :data:`KINDS`.
        text: What is asked.
        image: A file that belongs to the question, or ``None``.
        expected: What the right hit carries: ``uri``, and ``page`` or ``start_s`` where they apply.
    """

    kind: str
    text: str
    image: Path | None
    expected: dict[str, Any]

    @property
    def modality(self) -> str:
        """The modality that is searched."""
        return KINDS[self.kind]


def draw_folder(folder: Path, seed: int) -> list[Question]:
    """Fill ``folder`` with files drawn from unseen content, and return the questions about them.

    Everything is a pure function of ``seed`` and belongs to the test split: the bundled model has seen none of it.
    Captions describe the whole picture, and page descriptions several facts. Partial captions and single facts are harder;
    the model card has their scores.
    """
    for name in ("images", "documents", "videos", "answers"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return [*_images(folder, seed), *_pages(folder, seed), *_moments(folder, seed)]


def _pixels(pair: Pair) -> np.ndarray:
    return pair.positive["image"] if "image" in pair.positive else pair.positive["video"]


def _asked(pairs: list[Pair], contents: Sequence[object], kinds: tuple[str, ...]) -> list[int]:
    """Indices of pairs of these kinds, spread over all of them, whose query exactly one of ``contents`` answers."""
    alone = [i for i, pair in enumerate(pairs) if pair.kind in kinds and sum(map(pair.accepts, contents)) == 1]
    return alone[:: max(1, len(alone) // _ASKED)][:_ASKED]


def _images(folder: Path, seed: int) -> list[Question]:
    key = f"demo-{seed}"
    captions = draw_pairs("caption", _CAPTIONED, seed=key, split="test")
    asked = draw_pairs("question", _QUESTIONED, seed=key, split="test")
    edits = draw_pairs("edit", _EDITED * EDITS_PER_SCENE, seed=key, split="test")
    contents = [
        *(pair.content for pair in captions + edits),
        *(pair.shown for pair in asked + edits[::EDITS_PER_SCENE]),
    ]
    return [*_captions(folder, captions, contents), *_questions(folder, asked), *_edits(folder, edits)]


def _captions(folder: Path, pairs: list[Pair], contents: Sequence[object]) -> list[Question]:
    files = [
        write_image(folder / "images" / f"scene-{i:02d}.{'jpg' if i % 2 else 'png'}", _pixels(pair))
        for i, pair in enumerate(pairs)
    ]
    return [
        Question("caption → image", pairs[i].query["text"], None, {"uri": files[i].relative_to(folder).as_posix()})
        for i in _asked(pairs, contents, ("caption/full",))
    ]


def _questions(folder: Path, pairs: list[Pair]) -> list[Question]:
    for answer in ANSWERS["question"]:
        (folder / "answers" / f"{answer}.txt").write_text(answer + "\n")
    questions = []
    for i, pair in enumerate(pairs):
        image = write_image(folder / "images" / f"asked-{i}.png", pair.query["image"])
        expected = {"uri": f"answers/{pair.positive['text']}.txt"}
        questions.append(Question("question + image → answer", pair.query["text"], image, expected))
    return questions


def _edits(folder: Path, pairs: list[Pair]) -> list[Question]:
    questions = []
    for group in range(_EDITED):
        edits = pairs[group * EDITS_PER_SCENE : (group + 1) * EDITS_PER_SCENE]
        source = write_image(folder / "images" / f"edit-{group}-before.png", edits[0].query["image"])
        for i, pair in enumerate(edits):
            write_image(folder / "images" / f"edit-{group}-after-{i}.jpg", _pixels(pair))
        expected = {"uri": f"images/edit-{group}-after-0.jpg"}
        questions.append(Question("edited image → image", edits[0].query["text"], source, expected))
    return questions


def _pages(folder: Path, seed: int) -> list[Question]:
    count = _PDFS * _PAGES_PER_PDF
    pairs = [page_pair(*rngs("demo", seed, "page", i), "test", detail=1.0) for i in range(count)]
    for pdf in range(_PDFS):
        chunk = pairs[pdf * _PAGES_PER_PDF : (pdf + 1) * _PAGES_PER_PDF]
        write_pdf(folder / "documents" / f"report-{pdf}.pdf", [_pixels(pair) for pair in chunk])
    questions = []
    for i in _asked(pairs, [pair.content for pair in pairs], ("page/many",)):
        pdf, page = divmod(i, _PAGES_PER_PDF)
        expected = {"uri": f"documents/report-{pdf}.pdf", "page": page + 1}
        questions.append(Question("description → PDF page", pairs[i].query["text"], None, expected))
    return questions


def _moments(folder: Path, seed: int) -> list[Question]:
    in_videos = _VIDEOS * _CLIPS_PER_VIDEO
    pairs = draw_pairs("moment", in_videos + _GIFS, seed=f"demo-{seed}", split="test")
    states = [_pixels(pair)[::2] for pair in pairs]  # two frames a state were drawn; files hold each state for 2 s
    for video in range(_VIDEOS):
        chunk = states[video * _CLIPS_PER_VIDEO : (video + 1) * _CLIPS_PER_VIDEO]
        write_mp4(folder / "videos" / f"video-{video}.mp4", np.concatenate(chunk))
    for gif in range(_GIFS):
        write_gif(folder / "videos" / f"clip-{gif}.gif", states[in_videos + gif])
    questions = []
    for i in _asked(pairs, [pair.content for pair in pairs], ("moment/placed", "moment/unplaced")):
        video, clip = divmod(i, _CLIPS_PER_VIDEO)
        expected: dict[str, Any] = {"uri": f"videos/video-{video}.mp4", "start_s": clip * CLIP_S}
        if i >= in_videos:
            expected = {"uri": f"videos/clip-{i - in_videos}.gif", "start_s": 0.0}
        questions.append(Question("description → video moment", pairs[i].query["text"], None, expected))
    return questions
