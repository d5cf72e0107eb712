"""Names in the code use one word for one thing: words that were replaced do not come back."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ["tte_retriever", "integrations/qdrant/tte_retriever_qdrant", "integrations/llama-index/llama_index"]
FOLDERS += ["recipes", "models", "studies"]
FILES = sorted(path for name in FOLDERS for path in (ROOT / name).rglob("*.py") if "tests" not in path.parts)

REPLACED = {  # a part of a name, or several in a row: the word to use
    "cot": "rationale",
    "spoken": "rationale",
    "home": "state_dir",
    "neutralise": "escape",
    "take in": "a verb such as merge",
    "own ids": "what the ids are for",
    "left behind": "what it is, such as remaining",
    "think step": "latent step",
    "thought token": "think token",
    "thought tokens": "think tokens",
}
FORMATS = ("explicit cot",)  # the name of a method, in paths of modules that checkpoints hold


def parts(name: str) -> str:
    """The parts of a name in snake or camel case: ``ExplicitCoTModel`` is ``explicit cot model``."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name.replace("CoT", "Cot"))
    return spaced.lower().replace("_", " ").strip()


def names(path: Path) -> set[str]:
    """The names that a file defines: modules, classes, functions, arguments, variables and attributes."""
    found = {path.stem}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.arg | ast.keyword):
            found.add(node.arg or "")
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
    return found


def replaced(name: str) -> list[str]:
    words = parts(name)
    for format_name in FORMATS:
        words = words.replace(format_name, "")
    return [f"{name}: say {new!r}" for old, new in REPLACED.items() if re.search(rf"\b{old}\b", words)]


def test_replaced_words_do_not_come_back():
    found = [f"{path.relative_to(ROOT)}: {line}" for path in FILES for name in names(path) for line in replaced(name)]
    assert sorted(found) == []


@pytest.mark.parametrize("name", ["cot_ids", "CoTHead", "cot", "home", "take_in", "own_ids"])
def test_a_replaced_word_is_found(name):
    assert replaced(name)


@pytest.mark.parametrize("name", ["explicit_cot", "ExplicitCoTLoss", "homepage", "scotch"])
def test_other_names_are_left_alone(name):
    assert not replaced(name)
