"""The command that imports, with the folder that it leaves."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from tte_retriever import TTEEncoder
from tte_retriever.cli import main as command_line


@pytest.fixture
def run(monkeypatch, capsys):
    """Run ``tte-retriever import …``; returns exit code, stdout, stderr."""
    command = EntryPoint("import", "tte_retriever.cli.import_:import_", command_line.GROUP)
    monkeypatch.setattr(command_line, "entry_points", lambda *, group, name=None: [command])

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            command_line.main(["import", *map(str, arguments)])
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err

    return call


def test_import_and_load(run, plume_original, tmp_path):
    settings = ["--steps", 5, "--top-k", 1, "--context", "none", "--positions", "mrope", "--readout", "gen"]
    code, out, err = run(plume_original(), tmp_path / "out", "--from", "plume", *settings)
    assert code == 0, err
    assert f'TTEEncoder("{tmp_path / "out"}")' in out
    options = TTEEncoder(str(tmp_path / "out"), device="cpu")[0].options
    given = (options.steps, options.active_experts, options.context, options.positions)
    assert given == (5, 1, "none", "mrope")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--from", "plum"], "it can be plume"),
        (["--from", "plume", "--context", "dics"], "disc or prefix_last or none"),
        (["--from", "plume", "--steps", "40"], "from 0 to 32"),
    ],
)
def test_bad_usage_is_one_sentence_and_exit_code_2(run, plume_original, tmp_path, arguments, complaint):
    code, _, err = run(plume_original(), tmp_path / "out", *arguments)
    assert code == 2
    assert complaint in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_source_that_is_no_checkpoint(run, tmp_path):
    code, _, err = run(tmp_path / "missing", tmp_path / "out", "--from", "plume")
    assert code == 2
    assert "missing" in err
    (tmp_path / "empty").mkdir()
    code, _, err = run(tmp_path / "empty", tmp_path / "out", "--from", "plume")
    assert code == 2
    assert "cannot be loaded" in err
