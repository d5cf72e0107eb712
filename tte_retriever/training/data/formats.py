"""Converts a row of each public file format into a training pair."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count, takewhile, zip_longest
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any, TypeAlias

from tte_retriever.errors import InputError


@dataclass(frozen=True)
class TrainingPair:
    """One training pair. Items are as in :func:`~tte_retriever.training.data.encode_item`: media are still paths.

    Attributes:
        anchor: The query.
        positive: The candidate that answers it.
        negatives: Candidates that do not.
        anchor_rationale: Rationale of the query; ``""`` for none.
        positive_rationale: Rationale of the positive; ``""`` for none.
        anchor_answer: The conclusion of the query's rationale, in a few words; ``""`` for none.
        positive_answer: The same for the positive.
        ids: Known ids of items, by column (``anchor``, ``positive``, ``negative_1``…).
        answers: Everything else that answers the query: ids if the positive has one, else texts.
        source: Name of the data set that the row comes from; ``""`` if it is not known.

    Example:
        >>> TrainingPair("a red circle", "circle", anchor_rationale="it is round").negatives
        ()
    """

    anchor: Any
    positive: Any
    negatives: tuple[Any, ...] = ()
    anchor_rationale: str = ""
    positive_rationale: str = ""
    anchor_answer: str = ""
    positive_answer: str = ""
    ids: Mapping[str, str] = field(default_factory=dict)
    answers: tuple[str, ...] = ()
    source: str = ""


Row: TypeAlias = Mapping[str, Any]

TEXTS = ("anchor_rationale", "positive_rationale", "anchor_answer", "positive_answer")
"""The columns of a pair that hold text about an item."""

_ROLES = re.compile(r"(anchor|positive|negative)(?![a-z])", re.IGNORECASE)


def pairs(row: Row) -> TrainingPair:
    """Our own format: ``anchor``, ``positive``, ``negative_1``…, ``answers``, ``source``, and columns about an item.

    These are ``anchor_rationale``, ``positive_rationale``, ``anchor_answer``, ``positive_answer`` and ``<item>_id``. Other
    keys are ignored, unless they look like a misspelt one of these.

    Raises:
        InputError: A key is missing or misspelt.
    """
    items = ("anchor", "positive", *takewhile(row.__contains__, (f"negative_{i}" for i in count(1))))
    known = {*items, *TEXTS, *(f"{item}_id" for item in items)}
    unknown = [key for key in row if _ROLES.match(key) and key not in known]
    if unknown:
        raise InputError(f"the key {unknown[0]!r} is not known; negatives are negative_1, negative_2… without a gap")
    anchor, positive, *negatives = (_required(row, item) for item in items)
    return TrainingPair(
        anchor,
        positive,
        tuple(negatives),
        **{name: row.get(name) or "" for name in TEXTS},
        ids={item: _name(row, f"{item}_id") for item in items},
        answers=tuple(_listed(row.get("answers"))),
        source=_name(row, "source"),
    )


def mmeb(row: Row) -> TrainingPair:
    """MMEB-train: ``qry``, ``qry_image_path``, ``pos_text``, ``pos_image_path``, ``neg_text``, ``neg_image_path``.

    The image goes in front of the text, without its mark ``<|image_1|>``. Negatives are one or a list; empty ones are dropped.
    """
    texts, paths = _listed(row.get("neg_text")), _listed(row.get("neg_image_path"))
    negatives = [each for each in zip_longest(texts, paths, fillvalue="") if any(each)]
    return TrainingPair(
        _mmeb_item("qry", _required(row, "qry"), row.get("qry_image_path")),
        _mmeb_item("pos", _required(row, "pos_text"), row.get("pos_image_path")),
        tuple(_mmeb_item("neg", *each) for each in negatives),
    )


def ume(row: Row) -> TrainingPair:
    """UME-sft-train: conversations with ``<image>`` and ``<video>`` tags, rationales in the answering turn.

    What follows ``<disc_emb>`` in the question instructs another model and is cut off, and so is the placeholder
    ``blank.jpg`` of sides without media.
    """
    anchor, anchor_rationale, anchor_answer = _ume_side("qry", _required(row, "qry"))
    positive, positive_rationale, positive_answer = _ume_side("pos", _required(row, "pos"))
    names = ("dataset_name", "dataset", "subset", "source", "task_name")
    source = next((_name(row, name) for name in names if row.get(name)), "")
    return TrainingPair(
        anchor, positive, (), anchor_rationale, positive_rationale, anchor_answer, positive_answer, source=source
    )


FORMATS: Mapping[str, Callable[[Row], TrainingPair]] = MappingProxyType({"pairs": pairs, "mmeb": mmeb, "ume": ume})
"""What ``read_pairs`` can read, by name."""


def _required(row: Row, key: str) -> Any:
    if row.get(key) is None:
        raise InputError(f"{key!r} is missing; the row has {', '.join(map(repr, row)) or 'no keys'}")
    return row[key]


def _name(row: Row, key: str) -> str:
    """The str or number under ``key``, as a str; ``""`` if there is none."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int | None):
        raise InputError(f"{key!r} is {value!r}; give a str or an int")
    return "" if value is None else str(value)


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


_MMEB_MARK = re.compile(r"<\|image_(?:\d+|pad)\|>|<image>")


def _mmeb_item(side: str, text: Any, paths: Any) -> dict[str, Any]:
    if not isinstance(text, str):
        raise InputError(f"the text of {side!r} is {text!r}; give a str")
    images = [path for path in _listed(paths) if path]
    if _MMEB_MARK.search(text) and not images:
        raise InputError(f"the text of {side!r} marks an image, but no image path is given")
    words = _MMEB_MARK.sub("", text).strip()
    item: dict[str, Any] = {"image": images[0] if len(images) == 1 else images} if images else {}
    return item | ({"text": words} if words or not images else {})


_UME_TAG = re.compile(r"(<image>|<video>)")
_UME_THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*(?:<answer>(.*?)</answer>)?[^<]*(?:<gen_emb>\s*)?", re.DOTALL)


def _ume_side(key: str, side: Any) -> tuple[Any, str, str]:
    """The item of a side, its rationale and its answer."""
    side = side[0] if isinstance(side, list) and len(side) == 1 else side
    turns = side.get("conversations") if isinstance(side, Mapping) else None
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        raise InputError(f"{key!r} has no conversations; give one dict with a list of turns under 'conversations'")
    said = {turn.get("from") or turn.get("role"): turn.get("value") or turn.get("content") for turn in turns}
    question, answer = said.get("human") or said.get("user"), said.get("gpt") or said.get("assistant")
    if not isinstance(question, str) or not isinstance(answer, str | None):
        raise InputError(f"the conversation of {key!r} has no human turn of text, or an answer that is not text")
    images = _listed(side.get("image") or side.get("images"))
    videos = side.get("video") or side.get("videos") or []
    if videos and not (isinstance(videos, list) and isinstance(videos[0], list)):
        videos = [videos]  # a list of paths is the frames of one video
    return _ume_item(key, question.split("<disc_emb>")[0], {"image": images, "video": videos}), *_thought(key, answer)


def _ume_item(key: str, text: str, media: dict[str, list[Any]]) -> Any:
    given = {kind: iter(values) for kind, values in media.items()}
    parts: list[dict[str, Any]] = []
    for piece in _UME_TAG.split(text):
        kind = piece[1:-1] if _UME_TAG.fullmatch(piece) else "text"
        value = piece.strip() if kind == "text" else next(given[kind], None)
        if value is None:
            raise InputError(f"{key!r} has more {piece} tags than {kind}s")
        blank = kind == "image" and PurePosixPath(str(value)).name == "blank.jpg"
        if value and not blank:
            parts.append({"type": kind, kind: value})
    left = [value for values in given.values() for value in values if PurePosixPath(str(value)).name != "blank.jpg"]
    if left:
        raise InputError(f"{key!r} gives {len(left)} media without an <image> or <video> tag")
    if all(part["type"] == "text" for part in parts):
        return {"text": "\n".join(part["text"] for part in parts)}
    return [{"role": "user", "content": parts}]


def _thought(key: str, answer: str | None) -> tuple[str, str]:
    if answer is None:
        return "", ""
    match = _UME_THOUGHT.fullmatch(answer)
    if match is None:
        raise InputError(f"the rationale of {key!r} is not <think>…</think><answer>…</answer>")
    thought, conclusion = match.groups(default="")
    return thought.strip(), conclusion.strip()
