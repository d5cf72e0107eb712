from __future__ import annotations

import runpy
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "examples" / "ask_a_folder.py"


def test_the_example_answers_from_images_and_pages(folder, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("LLAMA_INDEX_CACHE_DIR", str(tmp_path / "cache"))
    (folder / "clip.mp4").unlink()
    (folder / "notes.md").unlink()
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(folder), "a circle"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    answer, *sources = capsys.readouterr().out.splitlines()
    assert answer.startswith("I was shown 3 pictures: ")
    assert len(sources) == 3
    sizes = {"red.png": "96x96", "sub/blue.jpg": "96x96", "doc.pdf": "400x560"}
    assert sorted(answer.split(": ")[1].split(", ")) == sorted(sizes[source.split()[1]] for source in sources)
