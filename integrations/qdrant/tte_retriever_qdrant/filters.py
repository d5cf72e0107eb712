"""Conditions on the payloads of points, the same for every engine.

A mapping gives the value, or a list of the allowed values, of each of its keys: ``{"modality": ["image", "page"]}``.
:class:`Range` compares numbers. :class:`And`, :class:`Or` and :class:`Not` combine conditions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from tte_retriever.errors import InputError
from tte_retriever_qdrant.records import PAYLOAD_FIELDS

Scalar: TypeAlias = str | int | float


@dataclass(frozen=True)
class Range:
    """The value of the key is a number within the given bounds.

    Attributes:
        key: Name of a payload field.
        gt: Greater than this.
        gte: This or greater.
        lt: Less than this.
        lte: This or less.
    """

    key: str
    gt: float | None = None
    gte: float | None = None
    lt: float | None = None
    lte: float | None = None


@dataclass(frozen=True)
class And:
    """All parts match; without parts, everything matches."""

    parts: Sequence[Filter]


@dataclass(frozen=True)
class Or:
    """At least one of the parts matches."""

    parts: Sequence[Filter]


@dataclass(frozen=True)
class Not:
    """Negate a condition; points without its key match."""

    part: Filter


Filter: TypeAlias = Mapping[str, Scalar | Sequence[Scalar]] | Range | And | Or | Not


@dataclass(frozen=True)
class Dialect:
    """The classes of an engine's filters.

    Attributes:
        group: Makes a filter of lists of conditions named ``must``, ``should`` and ``must_not``.
        field: Makes a condition of a ``key`` and a ``match`` or a ``range``.
        any_of: Makes a match of a list of texts.
        between: Makes a range of ``gt``, ``gte``, ``lt`` and ``lte``.
    """

    group: Callable[..., Any]
    field: Callable[..., Any]
    any_of: Callable[[list[str]], Any]
    between: Callable[..., Any]


def compile_filter(filter: Filter | None, dialect: Dialect) -> Any | None:
    """Convert a filter to an engine's classes; ``None`` if everything matches.

    Raises:
        InputError: A value is neither text nor a finite number, values are mixed or missing, a range has no bounds, or
            the filter has another type.
    """
    condition = None if filter is None else _compile(filter, dialect)
    # Engines take a group, never a bare condition.
    return None if condition is None else dialect.group(must=[condition])


def filter_keys(filter: Filter | None) -> set[str]:
    """The payload keys that a filter uses."""
    if filter is None:
        return set()
    if isinstance(filter, (And, Or)):
        return set().union(*(filter_keys(part) for part in filter.parts))
    if isinstance(filter, Not):
        return filter_keys(filter.part)
    return {filter.key} if isinstance(filter, Range) else set(filter)


def parse_filters(arguments: Sequence[str]) -> Filter:
    """Parse ``key=value`` arguments; a key given several times may have any of its values.

    Raises:
        InputError: An argument has another form, an unknown key, or a value of the wrong type.
    """
    filters: dict[str, list[Scalar]] = {}
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if not separator or key not in PAYLOAD_FIELDS:
            raise InputError(
                f"the filter {argument!r} cannot be read; give key=value with a key of {', '.join(PAYLOAD_FIELDS)}"
            )
        kind = PAYLOAD_FIELDS[key]
        try:
            filters.setdefault(key, []).append(kind(value))
        except ValueError as error:
            raise InputError(f"the filter {argument!r} needs a value of type {kind.__name__}") from error
    return filters


def _compile(filter: Filter, dialect: Dialect) -> Any | None:
    if isinstance(filter, And):
        return _all_of([_compile(part, dialect) for part in filter.parts], dialect)
    if isinstance(filter, Or):
        parts = [_compile(part, dialect) for part in filter.parts]
        if not parts:
            raise InputError("an Or without parts matches nothing; give it parts, or leave it out")
        return None if any(part is None for part in parts) else dialect.group(should=parts)
    if isinstance(filter, Not):
        part = _compile(filter.part, dialect)
        if part is None:
            raise InputError(f"{filter!r} excludes everything; give Not a part that some points do not match")
        return dialect.group(must_not=[part])
    if isinstance(filter, Range):
        return dialect.field(key=filter.key, range=dialect.between(**_bounds(filter)))
    if isinstance(filter, Mapping):
        return _all_of([_one_of(key, _values(key, value), dialect) for key, value in filter.items()], dialect)
    raise InputError(f"{filter!r} is no filter; give a mapping, Range, And, Or or Not")


def _all_of(parts: list[Any | None], dialect: Dialect) -> Any | None:
    conditions = [part for part in parts if part is not None]
    return dialect.group(must=conditions) if conditions else None


def _one_of(key: str, values: list[Any], dialect: Dialect) -> Any:
    if isinstance(values[0], str):
        return dialect.field(key=key, match=dialect.any_of(values))
    # A range, because a match takes no floats and an integer does not match the float of the same value.
    return dialect.group(
        should=[dialect.field(key=key, range=dialect.between(gte=value, lte=value)) for value in values]
    )


def _values(key: str, value: Scalar | Sequence[Scalar]) -> list[Scalar]:
    values: list[Any] = list(value) if isinstance(value, (list, tuple, set, frozenset)) else [value]
    if values and (all(isinstance(v, str) for v in values) or all(_is_number(v) for v in values)):
        return values
    raise InputError(f"the filter {key}={value!r} cannot be applied; give a text, a number, or a list of one of them")


def _bounds(filter: Range) -> dict[str, float]:
    bounds = {name: value for name, value in asdict(filter).items() if name != "key" and value is not None}
    if not bounds or not all(_is_number(value) for value in bounds.values()):
        raise InputError(f"{filter!r} cannot be applied; give one or more of gt, gte, lt and lte, as finite numbers")
    return bounds


def _is_number(value: object) -> bool:
    # bool is an int in Python but not in Qdrant, and the edge engine matches it with nothing.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
