from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from tte_retriever import __version__
from tte_retriever.cli import main as cli
from tte_retriever.errors import InputError, TTEError


def succeed(name: str = "world") -> None:
    """Say hello."""
    sys.stdout.write(f"hello {name}\n")


def refuse() -> None:
    raise InputError("'x' was given; give 'y'")


def fail() -> None:
    raise TTEError("the disk is full")


def stop() -> None:
    raise KeyboardInterrupt


def crash() -> None:
    raise RuntimeError("a bug")


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line with this module's functions as its sub-commands; returns exit code, stdout, stderr."""
    commands = [
        EntryPoint(f.__name__, f"{__name__}:{f.__name__}", cli.GROUP) for f in (succeed, refuse, fail, stop, crash)
    ]
    by_name = {command.name: command for command in commands}
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or sys.modules[succeed.__module__])

    def entry_points(*, group, name=None):
        assert group == "tte_retriever.commands"
        return commands if name is None else [by_name[name]] if name in by_name else []

    monkeypatch.setattr(cli, "entry_points", entry_points)

    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main(list(arguments))
        return caught.value.code or 0, *capsys.readouterr()

    return call


def test_a_sub_command_gets_its_options(run):
    assert run("succeed", "--name", "moon") == (0, "hello moon\n", "")


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("refuse", 2, "tte-retriever: 'x' was given; give 'y'\n"),
        ("fail", 1, "tte-retriever: the disk is full\n"),
        ("stop", 130, "tte-retriever: stopped\n"),
    ],
)
def test_errors_become_a_sentence_and_an_exit_code(run, command, code, said):
    assert run(command) == (code, "", said)


def test_bugs_are_not_hidden(run):
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["crash"])


def test_version(run):
    assert run("--version") == (0, f"tte-retriever {__version__}\n", "")


def test_help_lists_sub_commands(run):
    code, out, _ = run("--help")
    assert code == 0
    assert "succeed" in out
    assert "Say hello." in out


@pytest.mark.parametrize("arguments", [["nonsense"], ["succeed", "--nonsense"], ["--nonsense"], []])
def test_bad_usage(run, arguments):
    code, _, _ = run(*arguments)
    assert code == 2


def test_starting_does_not_load_torch():
    program = """
import sys
from tte_retriever.cli.main import main
try:
    main(["--help"])
except SystemExit as end:
    assert not end.code, end.code
assert "typer" in sys.modules
sys.exit(sum(name in sys.modules for name in ("torch", "transformers", "sentence_transformers")))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
