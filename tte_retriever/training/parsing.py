"""Convert values from YAML to frozen dataclasses. An unknown key or a wrong type is an error with its dotted path."""

from __future__ import annotations

import types
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from tte_retriever.errors import InputError, check_choice

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def from_mapping(kind: type[T], values: Any, where: str = "") -> T:
    """Convert a mapping to a dataclass.

    Args:
        kind: A dataclass. Its annotations may be scalars, ``Literal``, ``X | None``, ``tuple[X, ...]``, ``dict`` and other
            dataclasses.
        values: The mapping, as YAML is read.
        where: Dotted path of ``values``, for messages.

    Raises:
        InputError: An unknown or missing key, or a value of a wrong type.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where or 'The config'} is {values!r}; give a mapping of {_keys(kind)}.")
    hints, known = get_type_hints(kind), {field.name: field for field in fields(kind)}
    refuse_unknown(values, known, where)
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise InputError(f"{_at(where, name)} is missing; it has no default. Keys here: {_keys(kind)}.")
    return kind(**{name: _convert(hints[name], value, _at(where, name)) for name, value in values.items()})


def refuse_unknown(given: Iterable[Any], known: Mapping[str, Any], where: str) -> None:
    """Raise for the first unknown key, and name the nearest known one.

    Raises:
        InputError: If there is such a key.
    """
    for key in given:
        if key not in known:
            nearest = get_close_matches(str(key), known, n=1, cutoff=0.5)
            advice = f"did you mean {nearest[0]!r}?" if nearest else f"known are {', '.join(known)}."
            raise InputError(f"{_at(where, key)} is no known key; {advice}")


def set_value(values: dict[str, Any], assignment: str, parse: Any) -> None:
    """Apply one ``a.b.0.c=value`` to nested mappings and lists, in place.

    Args:
        values: The nested values, as YAML is read.
        assignment: Dotted path, ``=`` and the value in YAML; numbers index lists.
        parse: Reads the text of the value.

    Raises:
        InputError: If it is not an assignment, or a list has no such element.
    """
    path, separator, text = assignment.partition("=")
    if not separator or not all(path.split(".")):
        raise InputError(f"{assignment!r} is not an assignment; write key=value, such as stages.0.steps=10.")
    set_at(values, path, parse(text))


def set_at(values: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a dotted path of nested mappings and lists, in place; numbers index lists.

    Raises:
        InputError: If a list has no such element, or the path goes through a single value.
    """
    *parents, last = path.split(".")
    container: Any = values
    for name in parents:
        if isinstance(container, dict) and container.get(name) is None:
            container[name] = {}
        container = container[_index(container, name, path)]
    container[_index(container, last, path)] = value


def _index(container: Any, name: str, path: str) -> Any:
    if isinstance(container, dict):
        return name
    if not isinstance(container, list):
        raise InputError(f"{path} cannot be set: {name!r} would be inside a single value.")
    if not name.isdecimal() or int(name) >= len(container):
        raise InputError(
            f"{path} cannot be set: {name!r} is not an index of a list of length {len(container)}; indices start at 0."
        )
    return int(name)


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        (inner,) = [argument for argument in arguments if argument is not types.NoneType]
        return None if value is None else _convert(inner, value, where)
    if origin is Literal:
        check_choice(where, value, arguments)
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise InputError(f"{where} is {value!r}; give a list.")
        return tuple(_convert(arguments[0], each, f"{where}.{index}") for index, each in enumerate(value))
    if isinstance(kind, type) and is_dataclass(kind):
        return from_mapping(kind, value, where)
    return _scalar(origin or kind, value, where)


def _scalar(kind: type, value: Any, where: str) -> Any:
    if kind is float and not isinstance(value, bool):
        try:
            return float(value)  # YAML 1.1 reads 5e-5 as text
        except (TypeError, ValueError):
            pass
    elif isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", dict: "a mapping"}
    raise InputError(f"{where} is {value!r}; give {names[kind]}.")


def _at(where: str, name: Any) -> str:
    return f"{where}.{name}" if where else str(name)


def _keys(kind: Any) -> str:
    return ", ".join(field.name for field in fields(kind))
