"""The options of every command that loads a model, from the fields of :class:`~tte_retriever.options.ModelOptions`."""

from __future__ import annotations

import inspect
from dataclasses import fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, get_type_hints

import typer

from tte_retriever.options import ModelOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def with_model_options(
    default: str | None = None, *, argument: bool = False, help: Mapping[str, str] = MappingProxyType({})
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of a model, which it takes as the keyword ``options``, a :class:`ModelOptions`.

    Args:
        default: The model without ``--model``.
        argument: Whether the model is the first argument of the command instead of an option.
        help: Sentences that replace those of the options.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        types = get_type_hints(ModelOptions)
        added = []
        for each in fields(ModelOptions):
            text = help.get(each.name, ModelOptions.help_of(each.name))
            if argument and each.name == "model":
                shown, value = str, typer.Argument(..., help=text)
            else:
                shown, value = types[each.name], typer.Option(default if each.name == "model" else None, help=text)
            added.append(inspect.Parameter(each.name, _KEYWORD, default=value, annotation=shown))
        own = [_keyword(each) for name, each in signature.parameters.items() if name != "options"]
        parameters = [added[0], *own, *added[1:]] if argument else [*own, *added]

        def run(**given: Any) -> None:
            chosen = {each.name: given.pop(each.name) for each in fields(ModelOptions)}
            command(**given, options=ModelOptions(**chosen))

        run.__doc__, run.__name__, run.__module__ = command.__doc__, command.__name__, command.__module__
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        vars(run)["__signature__"] = signature.replace(parameters=parameters)
        return run

    return decorate


_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def _keyword(parameter: inspect.Parameter) -> inspect.Parameter:
    """Typer calls a command by keywords, so that parameters may have any order."""
    return parameter.replace(kind=_KEYWORD)
