"""Public names of a package that are imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def lazy_names(
    package: str, public: list[str], modules: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package whose names are imported on first use.

    Args:
        package: Its name.
        public: Its ``__all__``.
        modules: Of each lazy name, the module that defines it.

    Example:
        >>> __getattr__, __dir__ = lazy_names("shapes", ["sqrt"], {"sqrt": "math"})
        >>> __getattr__("sqrt")(9), __dir__()
        (3.0, ['sqrt'])
    """

    def import_name(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {', '.join(public)}")
        return getattr(import_module(modules[name]), name)

    return import_name, lambda: public
