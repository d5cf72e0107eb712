"""``tte-retriever demo`` as a user runs it."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tte_retriever.cli.main import main
from tte_retriever_qdrant.demo.folder import KINDS, draw_folder


def run(*arguments):
    with pytest.raises(SystemExit) as caught:
        main(["demo", *map(str, arguments)])
    return caught.value.code or 0


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """One run of a seed, its folder and its JSON lines."""
    out, printed = tmp_path_factory.mktemp("demo") / "out", io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert run("--seed", 20261, "--out", out, "--json") == 0
    return out, [json.loads(line) for line in printed.getvalue().splitlines()]


@pytest.mark.slow  # the fixture runs the same command in this process
def test_the_command_as_a_process_of_its_own(tmp_path, demo):
    command = [Path(sys.executable).with_name("tte-retriever"), "demo", "--seed", "20261", "--json"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    # Which items share a batch depends on the moment at which they are decoded, so scores agree to float32.
    hits = [[{**hit, "score": pytest.approx(hit["score"], abs=1e-5)} for hit in answer["hits"]] for answer in demo[1]]
    assert [json.loads(line)["hits"] for line in result.stdout.splitlines()] == hits
    assert (tmp_path / "tte-demo" / "contact-sheet.png").is_file()


def test_it_draws_files_of_all_kinds(demo):
    files = [path for path in (demo[0] / "files").rglob("*") if path.is_file()]
    assert len(files) >= 60
    assert {path.suffix for path in files} == {".png", ".jpg", ".gif", ".pdf", ".mp4", ".txt"}


def test_every_question_is_one_object_with_the_promised_keys(demo):
    answers = demo[1]
    assert len(answers) >= 20
    assert {answer["kind"] for answer in answers} == set(KINDS)
    for answer in answers:
        assert {"query", "kind", "expected", "hits", "correct"} <= set(answer)
        assert [hit["rank"] for hit in answer["hits"]] == [1, 2, 3]
        assert all({"rank", "score", "uri", "modality", "asset_id"} <= set(hit) for hit in answer["hits"])
        best = answer["hits"][0]
        assert answer["correct"] == all(best.get(key) == value for key, value in answer["expected"].items())


def test_most_answers_are_right_on_a_seed_that_nobody_chose(demo):
    assert sum(answer["correct"] for answer in demo[1]) >= 0.75 * len(demo[1])


def test_it_leaves_a_contact_sheet_and_a_page(demo):
    out, answers = demo
    with Image.open(out / "contact-sheet.png") as sheet:
        assert sheet.height > 50 * len(answers)
        assert len(sheet.getcolors(sheet.width * sheet.height)) > 1000  # pictures, not an empty sheet
    page = (out / "index.html").read_text()
    assert page.count("<tr>") == len(answers)
    assert "data:image/png;base64," in page


@pytest.mark.slow
def test_another_seed_draws_another_folder_into_the_same_place(demo, tmp_path):
    out, _ = demo
    before = {path.name: path.read_bytes() for path in (out / "files" / "images").iterdir()}
    questions = draw_folder(tmp_path, 20262)
    after = {path.name: path.read_bytes() for path in (tmp_path / "images").iterdir()}
    assert before.keys() == after.keys()
    assert all(before[name] != after[name] for name in before)
    assert {question.kind for question in questions} == set(KINDS)


@pytest.mark.parametrize("letter", ["letter.txt", "files/letter.txt", "store/letter.txt"])
def test_a_folder_of_somebody_else_is_not_touched(tmp_path, capsys, letter):
    (tmp_path / "mine" / letter).parent.mkdir(parents=True)
    (tmp_path / "mine" / "files").mkdir(exist_ok=True)  # names that the demo uses, too
    (tmp_path / "mine" / letter).write_text("dear")
    assert run("--out", tmp_path / "mine") == 2
    assert "--out" in capsys.readouterr().err
    assert (tmp_path / "mine" / letter).read_text() == "dear"
    assert [path for path in (tmp_path / "mine").rglob("*") if path.is_file()] == [tmp_path / "mine" / letter]


@pytest.mark.parametrize("seed", [0, 3, 11])
def test_every_question_has_exactly_one_right_answer_in_the_folder(seed, tmp_path):
    questions = draw_folder(tmp_path, seed)
    assert len(questions) >= 20
    for question in questions:
        assert (tmp_path / question.expected["uri"]).is_file()
        assert question.image is None or question.image.is_file()
