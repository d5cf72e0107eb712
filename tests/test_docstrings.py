"""Whatever a package exports has an example in its docstring, and the examples run."""

from __future__ import annotations

import doctest
import importlib
import inspect
import typing
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOTS = {  # import name of a distribution: the folder that it is imported from
    "tte_retriever": ROOT,
    "tte_retriever_qdrant": ROOT / "integrations/qdrant",
    "llama_index": ROOT / "integrations/llama-index",
}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
NEEDS = {"tte_retriever_qdrant.distributed": "ray", "tte_retriever.training": "datasets"}  # extras, by prefix


def module_name(path: Path) -> str:
    root = ROOTS[next(name for name, folder in ROOTS.items() if path.is_relative_to(folder / name))]
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def modules_with(text: str, pattern: str) -> list[str]:
    """Product modules whose source contains ``text``."""
    files = (path for name, root in ROOTS.items() for path in sorted((root / name).rglob(pattern)))
    return [module_name(path) for path in files if text in path.read_text(encoding="utf-8")]


PACKAGES = modules_with("__all__ = ", "__init__.py")


def imported(name: str):
    for prefix, extra in NEEDS.items():
        if name == prefix or name.startswith(f"{prefix}."):
            pytest.importorskip(extra)
    return importlib.import_module(name)


def exports(package: str) -> dict[str, object]:
    """The classes and functions of an ``__all__``; constants and type aliases need no example."""
    module = imported(package)
    found = {f"{package}.{name}": getattr(module, name) for name in module.__all__}
    return {
        name: value
        for name, value in found.items()
        if typing.get_origin(value) is None and (inspect.isclass(value) or inspect.isroutine(inspect.unwrap(value)))
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_every_export_has_an_example(package):
    assert [name for name, value in exports(package).items() if ">>>" not in (value.__doc__ or "")] == []


@pytest.mark.parametrize("name", modules_with(">>> ", "*.py"))
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner, report = doctest.DocTestRunner(optionflags=FLAGS), []
    for test in doctest.DocTestFinder().find(imported(name)):
        runner.run(test, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)
    assert runner.tries, "an example stands where doctest does not find it: on a nested function or an assignment"
