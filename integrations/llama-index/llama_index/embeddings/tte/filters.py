"""LlamaIndex's ``MetadataFilters`` as the filters of our stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from tte_retriever.errors import InputError
from tte_retriever_qdrant.filters import And, Not, Or, Range
from tte_retriever_qdrant.records import PAYLOAD_FIELDS

if TYPE_CHECKING:
    from tte_retriever_qdrant.filters import Filter

_BOUNDS = {
    FilterOperator.GT: "gt",
    FilterOperator.GTE: "gte",
    FilterOperator.LT: "lt",
    FilterOperator.LTE: "lte",
}
_OPERATORS = (FilterOperator.EQ, FilterOperator.IN, FilterOperator.NE, FilterOperator.NIN, *_BOUNDS)


def store_filter(filters: MetadataFilters) -> Filter:
    """Compile filters, however they are nested.

    ``!=`` and ``nin`` find points without the key, too; the condition ``not`` finds what none of the filters matches.

    Raises:
        InputError: A key that stores do not have, an operator that they cannot apply, or a value of the wrong type.
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
    values: list[Any] = [*value] if isinstance(value, list) else [value]
    # An engine would answer a text where numbers are stored with no hits at all, as if there were none.
    kinds = str if PAYLOAD_FIELDS[key] is str else (int, float)
    if not values or not all(isinstance(each, kinds) for each in values):
        name = "text" if kinds is str else "a number"
        raise InputError(f"the filter {key} {operator.value} {value!r} cannot be applied; {key} is {name}")
    if operator in _BOUNDS:
        return Range(key, **{_BOUNDS[operator]: value})  # type: ignore[arg-type]
    return Not({key: values}) if operator in (FilterOperator.NE, FilterOperator.NIN) else {key: values}
