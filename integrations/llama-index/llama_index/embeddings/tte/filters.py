"""LlamaIndex's ``MetadataFilters`` as the filters of our stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilters

from tte_retriever.errors import InputError
from tte_retriever_qdrant.records import PAYLOAD_FIELDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tte_retriever_qdrant.records import Filter, Scalar


def store_filter(filters: MetadataFilters | None) -> Filter | None:
    """Compile filters.

    Raises:
        InputError: A key that stores do not have, an operator other than ``==`` and ``in``, a condition other than
            ``and``, or a key that is named twice.
    """
    if filters is None:
        return None
    if filters.condition not in (None, FilterCondition.AND):
        raise InputError(f"the filter condition {filters.condition.value!r} is not supported; use 'and'")
    wanted: dict[str, Scalar | Sequence[Scalar]] = {}
    for each in filters.filters:
        if isinstance(each, MetadataFilters):
            raise InputError("filters within filters are not supported; give one list of them")
        if each.operator not in (FilterOperator.EQ, FilterOperator.IN):
            raise InputError(f"the filter operator {each.operator.value!r} is not supported; use '==' or 'in'")
        if each.key not in PAYLOAD_FIELDS:
            raise InputError(f"the filter key {each.key!r} is unknown; filter by {', '.join(PAYLOAD_FIELDS)}")
        if each.key in wanted:
            raise InputError(f"the filter key {each.key!r} is named twice; name it once, with 'in' and all its values")
        if each.value is None:
            raise InputError(f"the filter {each.key!r} has no value; give one")
        wanted[each.key] = each.value
    return wanted or None
