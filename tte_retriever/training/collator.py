"""Rows of training pairs become one batch of model features, with what the losses read beside them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator

from tte_retriever.errors import InputError
from tte_retriever.isolation import run_isolated
from tte_retriever.tokens import escape_control_tokens
from tte_retriever.training.data import RejectedRow, content_id, decode_item, quarantine_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tte_retriever.encoder import TTEEncoder

logger = logging.getLogger(__name__)

_ROW_COLUMNS = ("answers", "source", "origin", "dataset_name")
_ITEM_SUFFIXES = ("_rationale", "_answer", "_id")
IGNORED = -100
"""Pads token ids that are predicted; cross-entropy ignores it."""

_NO_ANSWER = -1


class PairCollator(SentenceTransformerDataCollator):
    """Opens the media of a batch, tokenises its columns, and adds what the losses read; the base of each method's collator.

    Every column is an item column, except ``<item>_rationale``, ``<item>_answer``, ``<item>_id``, ``answers``, ``source``,
    ``origin`` and ``dataset_name``. An item is one encoded by :func:`~tte_retriever.training.data.read_pairs`, or whatever
    ``TTEEncoder.encode`` takes. For each item column ``c`` the batch holds the features of ``model.preprocess`` under
    ``c_``, and

    * ``c_rationale_ids`` (B, R) int64: the rationale and, on a new line, the answer, ended by the end-of-turn token unless
      they were cut, padded with -100; only -100 for a row without either;
    * ``c_content_id`` (B,) int64, >= 0: equal where two items are the same, by their id if they have one, else by their
      content; give ids to all candidates or to none;
    * for the first column, if there is ``answers``, ``c_answer_ids`` (B, M) int64: the content ids of what else answers
      the query, padded with -1.

    A row that cannot be used (broken media, too long for the model) is logged, quarantined and replaced, in every column,
    by a copy of the next usable row. The batch keeps its size, as several processes need it to. The copies have the same
    content ids, so a loss that masks equal candidates takes no copy for a negative.

    The trainer does not pass its own ``prompts`` to a collator that it was given, so they are an argument here.

    Args:
        model: Its ``preprocess``, tokenizer, media limits and video sampling are used.
        prompts: As for ``SentenceTransformerTrainingArguments``: one for all, by column, or by dataset and column.
        max_rationale_tokens: Longest rationale, in tokens, its end included.
        quarantine: A JSONL file to which unusable rows are appended.

    Raises:
        InputError: An argument is out of range, or the columns do not fit together; when called, the batch has no usable
            row.
    """

    def __init__(
        self,
        model: TTEEncoder,
        *,
        prompts: str | dict[str, str] | dict[str, dict[str, str]] | None = None,
        max_rationale_tokens: int = 512,
        quarantine: str | Path | None = None,
    ) -> None:
        super().__init__(preprocess_fn=model.preprocess, prompts=prompts or {})
        if max_rationale_tokens < 1:
            raise InputError(f"max_rationale_tokens is {max_rationale_tokens}; give 1 or more")
        self.model = model
        self.largest_budget = model.thought.max_budget
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
        except InputError:  # at least one row is unusable; only now is it worth trying them one by one
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
            features["rationale_ids"] = self._rationale_ids(rows, column)
            features["content_id"] = torch.tensor([identity(row[column], row.get(f"{column}_id")) for row in rows])
            if column == columns[0] and "answers" in rows[0]:
                positive_id = columns[1] + "_id" if len(columns) > 1 else ""
                answers = [_answers(row, by_id=bool(row.get(positive_id))) for row in rows]
                features["answer_ids"] = padded(answers, _NO_ANSWER)
            batch |= {f"{column}_{key}": value for key, value in features.items()}
        return batch

    def _budget(self, rows: list[dict[str, Any]], columns: list[str]) -> int:
        """Think tokens of a batch."""
        return self.largest_budget

    def _rationale_ids(self, rows: list[dict[str, Any]], column: str) -> torch.Tensor:
        """Rationales and answers of one column; (B, R) int64, R >= 1."""
        texts = [(row.get(f"{column}_rationale"), row.get(f"{column}_answer")) for row in rows]
        return self.tokenize_rationales(["\n".join(filter(None, each)) for each in texts])

    def format_rationale(self, rationale: str) -> str:
        """A rationale as the model writes it, without its end."""
        return f" {rationale}"

    def tokenize_rationales(self, rationales: list[str]) -> torch.Tensor:
        """Token ids of rationales and their ends, padded with -100; (B, R) int64, R >= 1."""
        tokenizer = self.model.tokenizer
        ids: list[list[int]] = []
        for text in rationales:
            formatted = self.format_rationale(escape_control_tokens(text, tokenizer))
            row = tokenizer(formatted, add_special_tokens=False).input_ids if text else []
            ids.append([*row, self.end_id][: self.max_rationale_tokens] if row else [])
        return padded(ids, IGNORED)

    def _usable(self, rows: list[dict[str, Any]], columns: list[str]) -> list[dict[str, Any]]:
        """The rows, each unusable one replaced by the next usable one; after the last comes the first."""
        errors: list[InputError | None] = []
        for row in rows:
            (result,) = run_isolated(
                lambda one: [self._collate([*one], columns, self.largest_budget)], [row], InputError
            )
            errors.append(result if isinstance(result, InputError) else None)
        usable = [index for index, error in enumerate(errors) if error is None]
        if not usable:
            raise InputError(f"No row of the batch can be used; the first: {errors[0]}") from errors[0]
        for row, error in zip(rows, errors, strict=True):
            if error is not None:
                self._reject(row, error)
        return [rows[next((i for i in usable if i >= index), usable[0])] for index in range(len(rows))]

    def _reject(self, row: Mapping[str, Any], error: InputError) -> None:
        file, _, line = str(row.get("origin") or "").rpartition(":")
        origin = f"{file}:{line}" if file else "a row of unknown origin"
        logger.warning("%s cannot be used and is replaced by a copy of another row: %s", origin, error)
        if self.quarantine is not None:
            quarantine_rows(self.quarantine, [RejectedRow(file, int(line) if line.isdigit() else 0, str(error))])


def item_columns(names: list[str]) -> list[str]:
    """The columns that hold items, in order.

    Raises:
        InputError: A column describes an item that is missing, or the trainer would mix up the names of two items.

    Example:
        >>> item_columns(["anchor", "anchor_rationale", "positive", "source"])
        ['anchor', 'positive']
    """
    items = [name for name in names if name not in _ROW_COLUMNS and not name.endswith(_ITEM_SUFFIXES)]
    for name in names:
        stem = name.rsplit("_", 1)[0]
        if name.endswith(_ITEM_SUFFIXES) and stem not in items:
            raise InputError(f"the column {name!r} is about {stem!r}, and there is no such column; drop or rename it")
    for short in items:
        for long in items:
            if long.startswith(f"{short}_"):  # the trainer finds the features of a column by their prefix
                raise InputError(f"the columns {short!r} and {long!r} would be mixed up; rename one of them")
    if not items:
        raise InputError(f"there is no item among the columns {names}; give anchor and positive")
    return items


def identity(item: Any, name: Any = "") -> int:
    """The content id of an item, by its name if it has one; a name never equals a content."""
    return content_id([{"role": "id", "content": str(name)}]) if name not in (None, "") else content_id(item)


def _answers(row: Mapping[str, Any], *, by_id: bool) -> list[int]:
    answers = row["answers"] or []
    if not isinstance(answers, (list, tuple)):
        raise InputError(f"answers is of type {type(answers).__name__}; give a list of ids or items")
    return [identity(answer, answer if by_id else "") for answer in answers]


def padded(rows: list[list[int]], padding: int) -> torch.Tensor:
    """Rows of different lengths as one tensor, padded on the right; (B, M) int64, M >= 1."""
    width = max(1, *map(len, rows))
    return torch.tensor([row + [padding] * (width - len(row)) for row in rows], dtype=torch.int64)
