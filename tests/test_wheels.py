"""The wheels that are published hold the product and nothing else of this repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOT_COPIED = shutil.ignore_patterns(".*", "build", "dist", "runs", "*.egg-info", "__pycache__")
PACKAGES = {  # by distribution: its folder and its package
    "tte_retriever": (".", "tte_retriever"),
    "tte_retriever_qdrant": ("integrations/qdrant", "tte_retriever_qdrant"),
    "llama_index_embeddings_tte": ("integrations/llama-index", "llama_index/embeddings/tte"),
}

pytestmark = pytest.mark.slow  # builds in processes of its own


@pytest.fixture(scope="module", params=PACKAGES)
def wheel(request, tmp_path_factory):
    """The package of a distribution and the names in its wheel, built from a copy without an index."""
    folder, package = PACKAGES[request.param]
    made = tmp_path_factory.mktemp(request.param)
    shutil.copytree(ROOT, made / "checkout", ignore=NOT_COPIED)
    pytest.importorskip("pip")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    command += ["--wheel-dir", str(made), str(made / "checkout" / folder)]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    (built,) = made.glob(f"{request.param}-*.whl")
    with zipfile.ZipFile(built) as archive:
        return package, archive.namelist()


def test_a_wheel_holds_its_package_and_nothing_else(wheel):
    package, names = wheel
    assert {name for name in names if not name.startswith(f"{package}/") and ".dist-info/" not in name} == set()
    assert f"{package}/py.typed" in names
    assert f"{package}/__init__.py" in names


def test_a_wheel_holds_no_test_study_or_recipe(wheel):
    _, names = wheel
    parts = {part for name in names for part in Path(name).parts}
    assert not parts & {"tests", "conftest.py", "studies", "recipes", "benchmarks", "tte_flash_tiny"}
    assert not [name for name in names if Path(name).name.startswith("test_")]


def test_every_module_and_the_bundled_model_are_in_their_wheel(wheel):
    package, names = wheel
    folder = next(ROOT / folder for folder, name in PACKAGES.values() if name == package)
    kept = ("*.py", "py.typed", "models/**/*")
    files = {path for pattern in kept for path in (folder / package).rglob(pattern) if path.is_file()}
    expected = {path.relative_to(folder).as_posix() for path in files if "__pycache__" not in path.parts}
    assert expected <= set(names)
    if package == "tte_retriever":
        assert "tte_retriever/models/tte-flash-tiny/model.safetensors" in names
