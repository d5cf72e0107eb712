"""Imports point down only (DESIGN: layout). The table below is the design; the rest reads it.

``TYPE_CHECKING`` imports count in the table of layers: a type from above is knowledge of what stands above, and a
Protocol at the boundary is the cure. They do not count among the barred libraries, whose point is what a process loads.
"""

from __future__ import annotations

import ast
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "tte_retriever"

# From the bottom up. A part may import the rows below its own, not its neighbours in the row.
LAYERS = (
    ("errors", "atomic", "isolation", "lazy", "models", "prompts"),
    ("media", "backbones"),
    ("tokens", "small_world", "sources"),
    ("methods", "inference", "chats"),  # inference knows no encoder: TTEEncoder.embed hands it its functions
    ("checkpoint", "fingerprints"),
    ("hub",),
    ("encoder", "building"),
    ("options",),
    ("importing",),
    ("explain", "evaluation"),
    ("training",),
    ("bench",),
    ("cli",),
    ("__main__",),
)
LEVEL = {part: level for level, row in enumerate(LAYERS) for part in row}

# What a part must not load, even inside a function; "*" is every part.
BARRED = {
    "*": {
        "models",
        "recipes",
        "studies",
        "integrations",
        "tte_retriever_qdrant",
        "qdrant_client",
        "qdrant_edge",
        "llama_index",
    },
    "media": {"torch", "torchvision", "transformers", "sentence_transformers"},
}
SHAPELESS = {"utils", "util", "helpers", "misc"}


def imports(tree: ast.AST, package: str) -> list[tuple[int, str]]:
    """Line and absolute dotted name of everything imported; ``from a import b`` is ``a.b``."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            home = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module
            found += [(node.lineno, f"{home}.{alias.name}") for alias in node.names]
    return found


def without_type_checking(tree: ast.Module) -> ast.Module:
    """The same code as an interpreter runs it: bodies of ``if TYPE_CHECKING:`` are gone."""

    class Runtime(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
            self.generic_visit(node)
            return node.orelse if ast.unparse(node.test).endswith("TYPE_CHECKING") else node

    return ast.fix_missing_locations(Runtime().visit(tree))


def violations(source: str, path: str) -> list[str]:
    """What ``source`` does against the tables, if it stood at ``path`` (relative, such as tte_retriever/encoder.py)."""
    names = Path(path).with_suffix("").parts
    module = names[:-1] if names[-1] == "__init__" else names
    package = ".".join(names[:-1])
    part = module[1] if len(module) > 1 else None  # None: the package itself, whose lazy names may come from anywhere
    found = []

    if part is not None and part not in LEVEL:
        return [f"{path}: {part!r} has no layer; give it one in LAYERS"]
    for line, name in imports(ast.parse(source), package):
        top, _, rest = name.partition(".")
        target = rest.split(".")[0]
        if top != PACKAGE or part is None or target in (part, "__version__"):
            continue
        if target not in LEVEL:
            found.append(f"{path}:{line}: imports {name}; import from the module that defines it")
        elif LEVEL[target] >= LEVEL[part]:
            found.append(f"{path}:{line}: {part} imports {name}, which is not below it")
    barred = BARRED["*"] | BARRED.get(part or "", set())
    for line, name in imports(without_type_checking(ast.parse(source)), package):
        if name.split(".")[0] in barred:
            found.append(f"{path}:{line}: imports {name}, which this part must not load")
    return found


def test_imports_point_down_only():
    files = sorted((ROOT / PACKAGE).rglob("*.py"))
    assert files
    found = [line for file in files for line in violations(file.read_text(), file.relative_to(ROOT).as_posix())]
    assert not found, "\n" + "\n".join(found)


def at_import(tree: ast.Module) -> ast.Module:
    """The code that runs when a module is imported: without bodies of functions and of ``if TYPE_CHECKING:``."""

    class Outside(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
            return None

    return Outside().visit(without_type_checking(tree))


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Some modules that import each other in a circle, or nothing."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        found = next(filter(None, (visit(each, [*path, name]) for each in sorted(graph[name]))), [])
        done.add(name)
        return found

    return next(filter(None, (visit(name, []) for name in sorted(graph))), [])


def test_no_modules_import_each_other_in_a_circle():
    files = {}
    for root in (ROOT, ROOT / "integrations/qdrant", ROOT / "integrations/llama-index"):
        for package in (PACKAGE, "tte_retriever_qdrant", "llama_index"):
            for file in (root / package).rglob("*.py"):
                files[".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")] = file
    graph = {}
    for name, file in files.items():
        package = name if file.stem == "__init__" else name.rpartition(".")[0]
        found = [target for _, target in imports(at_import(ast.parse(file.read_text())), package)]
        # ``from a import b`` is an import of a.b if that is a module, else of a; a package knows its own modules.
        targets = {target if target in files else target.rpartition(".")[0] for target in found}
        graph[name] = {target for target in targets if target in files and target != name}
    assert len(graph) > 100
    assert circle(graph) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_no_module_is_named_for_having_no_subject():
    folders = [PACKAGE, "integrations", "recipes", "models", "studies"]
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.stem in SHAPELESS]
    assert not found


def test_implicit_namespaces_of_llama_index_stay_implicit():
    namespace = ROOT / "integrations/llama-index/llama_index"
    assert (namespace / "embeddings/tte/__init__.py").exists()
    assert not (namespace / "__init__.py").exists()
    assert not (namespace / "embeddings/__init__.py").exists()


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("encoder.py", "from tte_retriever.training.run import train", "not below"),
        ("encoder.py", "def f():\n    import tte_retriever.evaluation.metrics", "encoder.py:2"),
        ("media/images.py", "from tte_retriever import backbones", "not below"),
        ("media/images.py", "from ..backbones import spec", "not below"),
        ("media/__init__.py", "from ..encoder import TTEEncoder", "not below"),
        ("tokens.py", "if TYPE_CHECKING:\n    from tte_retriever.encoder import TTEEncoder", "not below"),
        ("evaluation/runner.py", "from tte_retriever.explain import decode", "not below"),
        ("cli/encode.py", "from tte_retriever import TTEEncoder", "the module that defines it"),
        ("cli/encode.py", "import tte_retriever", "the module that defines it"),
        ("media/video.py", "def f():\n    import torch.nn", "must not load"),
        (
            "media/video.py",
            "try:\n    from transformers import AutoProcessor\nexcept ImportError:\n    pass",
            "must not",
        ),
        ("cli/demo.py", "from tte_retriever_qdrant import search", "must not load"),
        ("__init__.py", "import studies.thinking", "must not load"),
        ("helpful.py", "", "has no layer"),
    ],
)
def test_a_violation_is_found(path, source, complaint):
    found = violations(source, f"{PACKAGE}/{path}")
    assert len(found) == 1
    assert complaint in found[0]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("encoder.py", "from tte_retriever.media import load_image\nfrom tte_retriever import __version__, tokens"),
        ("media/images.py", "from .limits import MediaLimits\nfrom tte_retriever.media.files import Source"),
        ("media/images.py", "if typing.TYPE_CHECKING:\n    import torch"),
        ("training/trainer.py", "import torch\nfrom tte_retriever.evaluation.metrics import recall"),
        ("__init__.py", "if TYPE_CHECKING:\n    from tte_retriever.encoder import TTEEncoder"),
    ],
)
def test_what_is_allowed_passes(path, source):
    assert violations(source, f"{PACKAGE}/{path}") == []
