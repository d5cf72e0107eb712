"""``tte-retriever eval`` as a user calls it."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint

import pytest

from tte_retriever.cli import main as cli


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line of this checkout, whatever is installed; returns exit code, stdout, stderr."""
    command = EntryPoint("eval", "tte_retriever.cli.eval:evaluate", cli.GROUP)
    monkeypatch.setattr(cli, "entry_points", lambda *, group, name=None: [command] if name in (None, "eval") else [])
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main(["eval", *arguments])
        return caught.value.code or 0, *capsys.readouterr()

    return call


def test_a_run_prints_a_table_and_writes_one_object(run, tmp_path):
    file = tmp_path / "scores.json"
    tasks = "grounding,moment-retrieval, page-retrieval"
    arguments = ("tte-flash-tiny", "--suite", "mini-mmeb", "--split", "held-out", "--queries", "20", "--seed", "3")
    code, out, _ = run(*arguments, "--tasks", tasks, "--think-budget", "4", "--json", str(file))
    assert code == 0
    report = json.loads(file.read_text(encoding="utf-8"))
    names = ["suite", "seed", "model", "fingerprint", "split", "think_budget", "tasks", "mean"]
    assert list(report) == names
    assert [report[name] for name in ("suite", "seed", "model", "split", "think_budget")] == [
        *("mini-mmeb", 3, "tte-flash-tiny", "held-out", 4)
    ]
    rows = report["tasks"]
    keys = ["name", "modality", "family", "split", "metric", "score", "ci95", "chance", "prior_only", "n"]
    assert all(list(row) == keys for row in rows)
    assert [row["metric"] for row in rows] == ["hit@1", "hit@1", "ndcg@5"]
    assert report["mean"] == pytest.approx(sum(row["score"] for row in rows) / 3)
    assert all(row["ci95"][0] <= row["score"] <= row["ci95"][1] and row["n"] == 20 for row in rows)
    for row in rows:
        line = next(line for line in out.splitlines() if row["name"] in line)
        assert f"{100 * row['score']:.1f}" in line
        assert f"{100 * row['prior_only']:.1f}" in line

    code, _, err = run(*arguments, "--tasks", tasks, "--json", str(file))
    assert code == 2
    assert "does not exist yet" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--suite", "mmeb-v2"), "cannot be run yet; give --suite mini-mmeb"),
        (("--suite", "mteb"), "does not exist; give --suite mini-mmeb"),
        (("--suite", "mini-mmeb", "--split", "train"), "there are iid, held-out, validation"),
        (("--suite", "mini-mmeb", "--tasks", "cooking"), "'cooking' is no task"),
        (("--suite", "mini-mmeb", "--tasks", "grounding", "--think-budget", "99"), "0 to 8"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_sentence(run, arguments, said):
    code, out, err = run("tte-flash-tiny", *arguments)
    assert code == 2
    assert not out
    assert said in err.splitlines()[-1]
