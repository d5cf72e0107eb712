"""Rows of training pairs become one batch of model features, with what the losses need beside them."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator

from tte_retriever.errors import InputError
from tte_retriever.tokens import escape_control_tokens

from .data import RejectedRow, content_id, decode_item, quarantine_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tte_retriever.encoder import TTEEncoder

logger = logging.getLogger(__name__)

_ABOUT_THE_ROW = ("answers", "source", "origin", "dataset_name")
_ABOUT_AN_ITEM = ("_rationale", "_answer", "_id")
IGNORED = -100
_NO_ANSWER = -1


class TTECollator(SentenceTransformerDataCollator):
    """Opens the media of a batch, tokenises its columns, and adds what the losses read.

    Every column is an item column, except ``<item>_rationale``, ``<item>_answer``, ``<item>_id``, ``answers``, ``source``,
    ``origin`` and ``dataset_name``. An item is one encoded by :func:`~tte_retriever.training.data.read_pairs` or whatever
    ``TTEEncoder.encode`` takes. For each item column ``c`` the batch holds the features of ``model.preprocess`` under
    ``c_``, and

    * ``c_rationale_ids`` (B, R) int64: the rationale and, on a new line, the answer, ended by the end-of-turn token unless they
      were cut, padded with -100; nothing but -100 for a row without either;
    * ``c_content_id`` (B,) int64, >= 0: equal where two items are the same, by their id if they have one, else by what
      they show; give ids to all candidates or to none;
    * for the first column, if there is ``answers``, ``c_answer_ids`` (B, M) int64: the content ids of what else answers
      the query, padded with -1.

    A row that cannot be used (broken media, too long for the model) is replaced, in every column, by a copy of the next
    usable row: the batch keeps its size, as several processes need it to, and the copies have the same content ids, so
    that a loss that masks equal candidates takes no copy for a negative. It is logged and quarantined.

    The trainer does not hand its own ``prompts`` to a collator that it was given, so they are given here.

    Args:
        model: Its ``preprocess``, tokenizer, media limits and video sampling are used.
        prompts: As for ``SentenceTransformerTrainingArguments``: one for all, by column, or by dataset and column.
        think_budget: Think tokens of every batch; ``None`` is all of them.
        nested_budgets: Draw each batch's budget from 0…``think_budget``, so that one checkpoint serves them all. The
            draw depends on nothing but ``seed`` and what is in the batch: it is the same after a resume and in any worker.
        seed: Of that draw.
        max_rationale_tokens: Longest rationale, in tokens, its end included.
        quarantine: A JSONL file to which unusable rows are appended.

    Raises:
        InputError: Arguments or columns that make no sense; when called, no usable row in the batch.
    """

    def __init__(
        self,
        model: TTEEncoder,
        *,
        prompts: str | dict[str, str] | dict[str, dict[str, str]] | None = None,
        think_budget: int | None = None,
        nested_budgets: bool = False,
        seed: int = 0,
        max_rationale_tokens: int = 512,
        quarantine: str | Path | None = None,
    ) -> None:
        super().__init__(preprocess_fn=model.preprocess, prompts=prompts or {})
        largest = model.thought.max_budget
        if think_budget is not None and not 0 <= think_budget <= largest:
            raise InputError(
                f"think_budget is {think_budget}, but this model has {largest} think tokens; give 0 to {largest}"
            )
        if max_rationale_tokens < 1:
            raise InputError(f"max_rationale_tokens is {max_rationale_tokens}; give 1 or more")
        self.model = model
        self.largest_budget = largest if think_budget is None else think_budget
        self.nested_budgets, self.seed = nested_budgets, seed
        self.max_rationale_tokens = max_rationale_tokens
        self.quarantine = None if quarantine is None else Path(quarantine)
        self.end_id = model.tokenizer.get_added_vocab().get("<|im_end|>")
        if self.end_id is None:
            raise InputError("the tokenizer has no <|im_end|>, which ends a rationale; use a chat model")

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate rows, all with the same columns."""
        columns = item_columns(list(features[0]))
        rows = [row | {column: decode_item(row[column]) for column in columns} for row in features]
        try:
            return self._collate(rows, columns, self._budget(rows, columns))
        except InputError:  # some row is to blame; only now is it worth trying them one by one
            rows = self._usable(rows, columns)
            return self._collate(rows, columns, self._budget(rows, columns))

    def _collate(self, rows: list[dict[str, Any]], columns: list[str], budget: int) -> dict[str, Any]:
        batch: dict[str, Any] = {"dataset_name": rows[0]["dataset_name"]} if "dataset_name" in rows[0] else {}
        prompts = self._resolve_prompts(batch) or {}
        for column in columns:
            features: dict[str, Any] = self.preprocess_fn(
                [row[column] for row in rows],
                prompt=self._get_prompt_for_column(prompts, column),
                think_budget=budget,
            )
            features |= self._thought(rows, column)
            features["content_id"] = torch.tensor([_identity(row[column], row.get(f"{column}_id")) for row in rows])
            if column == columns[0] and "answers" in rows[0]:
                named = columns[1] + "_id" if len(columns) > 1 else ""
                features["answer_ids"] = padded(
                    [_answers(row, by_id=bool(row.get(named))) for row in rows], _NO_ANSWER
                )
            batch |= {f"{column}_{key}": value for key, value in features.items()}
        return batch

    def _thought(self, rows: list[dict[str, Any]], column: str) -> dict[str, torch.Tensor]:
        """What the loss reads of the rationales of a column."""
        said = [(row.get(f"{column}_rationale"), row.get(f"{column}_answer")) for row in rows]
        return {"rationale_ids": self._rationale_ids(["\n".join(filter(None, parts)) for parts in said])}

    def _usable(self, rows: list[dict[str, Any]], columns: list[str]) -> list[dict[str, Any]]:
        """The rows, each unusable one replaced by the next usable one, round and round."""
        errors: list[InputError | None] = []
        for row in rows:
            try:
                self._collate([row], columns, self.largest_budget)
                errors.append(None)
            except InputError as caught:
                errors.append(caught)
        usable = [index for index, error in enumerate(errors) if error is None]
        if not usable:
            raise InputError(f"No row of the batch can be used; the first: {errors[0]}") from errors[0]
        for row, error in zip(rows, errors, strict=True):
            if error is not None:
                self._set_aside(row, error)
        return [rows[next((i for i in usable if i >= index), usable[0])] for index in range(len(rows))]

    def _set_aside(self, row: Mapping[str, Any], error: InputError) -> None:
        file, _, line = str(row.get("origin") or "").rpartition(":")
        where = f"{file}:{line}" if file else "a row of unknown origin"
        logger.warning("%s cannot be used; a copy of another row takes its place: %s", where, error)
        if self.quarantine is not None:
            quarantine_rows(self.quarantine, [RejectedRow(file, int(line) if line.isdigit() else 0, str(error))])

    def _budget(self, rows: Sequence[Mapping[str, Any]], columns: list[str]) -> int:
        if not self.nested_budgets:
            return self.largest_budget
        content = [_identity(row[column], "") for row in rows for column in columns]
        digest = hashlib.sha256(repr((self.seed, content)).encode()).digest()
        return int.from_bytes(digest[:8], "little") % (self.largest_budget + 1)

    def format_rationale(self, rationale: str) -> str:
        """A rationale as the model is to say it, its end apart."""
        return f" {rationale}"

    def _rationale_ids(self, rationales: list[str]) -> torch.Tensor:
        """(B, R) int64, R >= 1."""
        tokenizer = self.model.tokenizer
        ids: list[list[int]] = []
        for text in rationales:
            said = self.format_rationale(escape_control_tokens(text, tokenizer))
            row = tokenizer(said, add_special_tokens=False).input_ids if text else []
            ids.append([*row, self.end_id][: self.max_rationale_tokens] if row else [])
        return padded(ids, IGNORED)


def item_columns(names: list[str]) -> list[str]:
    """The columns that hold items, in order.

    Raises:
        InputError: A column about an item that is not there, or items whose names the trainer would mix up.
    """
    items = [name for name in names if name not in _ABOUT_THE_ROW and not name.endswith(_ABOUT_AN_ITEM)]
    for name in names:
        stem = name.rsplit("_", 1)[0]
        if name.endswith(_ABOUT_AN_ITEM) and stem not in items:
            raise InputError(f"the column {name!r} is about {stem!r}, and there is no such column; drop or rename it")
    for short in items:
        for long in items:
            if long.startswith(f"{short}_"):  # the trainer tells columns apart by the prefix of their features
                raise InputError(f"the columns {short!r} and {long!r} would be mixed up; rename one of them")
    if not items:
        raise InputError(f"there is no item among the columns {names}; give anchor and positive")
    return items


def _identity(item: Any, name: Any) -> int:
    """By name if there is one; a name never equals a content."""
    return content_id([{"role": "id", "content": str(name)}]) if name not in (None, "") else content_id(item)


def _answers(row: Mapping[str, Any], *, by_id: bool) -> list[int]:
    answers = row["answers"] or []
    if not isinstance(answers, (list, tuple)):
        raise InputError(f"answers is of type {type(answers).__name__}; give a list of ids or items")
    return [_identity(answer, answer if by_id else "") for answer in answers]


def padded(rows: list[list[int]], padding: int) -> torch.Tensor:
    """(B, M) int64, M >= 1."""
    width = max(1, *map(len, rows))
    return torch.tensor([row + [padding] * (width - len(row)) for row in rows], dtype=torch.int64)
