"""LlamaIndex's ``MetadataFilters`` as filters of tte-retriever stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from tte_retriever.errors import InputError
from tte_retriever_qdrant.filters import And, Not, Or, Range
from tte_retriever_qdrant.records import PAYLOAD_FIELDS

if TYPE_CHECKING:
    from tte_retriever_qdrant.filters import Filter

_BOUNDS = {FilterOperator.GT: "gt", FilterOperator.GTE: "gte", FilterOperator.LT: "lt", FilterOperator.LTE: "lte"}
_OPERATORS = (FilterOperator.EQ, FilterOperator.IN, FilterOperator.NE, FilterOperator.NIN, *_BOUNDS)


def store_filter(filters: MetadataFilters) -> Filter:
    """Compile filters, which may be nested.

    ``!=`` and ``nin`` also match points without the key. The condition ``not`` matches points that match no filter.

    Raises:
        InputError: A key is unknown, an operator is not supported, or a value has the wrong type.
    """
    parts = [store_filter(each) if isinstance(each, MetadataFilters) else _condition(each) for each in filters.filters]
    if filters.condition is FilterCondition.OR:
        return Or(parts)
    return Not(Or(parts)) if filters.condition is FilterCondition.NOT else And(parts)


def _condition(filter: MetadataFilter) -> Filter:
    key, operator, value = filter.key, filter.operator, filter.value
    if key not in PAYLOAD_FIELDS:
        raise InputError(f"the filter key {key!r} is unknown; filter by {', '.join(PAYLOAD_FIELDS)}")
    if operator not in _OPERATORS:
        allowed = ", ".join(each.value for each in _OPERATORS)
        raise InputError(f"the filter operator {operator.value!r} is not supported; use one of {allowed}")
    values: list[Any] = [*value] if isinstance(value, list) and operator not in _BOUNDS else [value]
    # For text where numbers are stored, an engine would return no hits and no error.
    kinds = str if PAYLOAD_FIELDS[key] is str else (int, float)
    if not values or not all(isinstance(each, kinds) for each in values):
        name = "text" if kinds is str else "a number"
        raise InputError(
            f"the filter {key} {operator.value} {value!r} cannot be applied, because {key} is {name}; give {name}"
        )
    if operator in _BOUNDS:
        return Range(key, **{_BOUNDS[operator]: values[0]})
    return Not({key: values}) if operator in (FilterOperator.NE, FilterOperator.NIN) else {key: values}
