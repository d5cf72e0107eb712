"""What the documents show works: Python blocks run, commands exist with the options they are shown with.

The blocks of one document share a namespace, in order, in an empty folder. A block that cannot run here stands under
``<!-- not run: reason -->``, and the reason is required.
"""

from __future__ import annotations

import functools
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tte_retriever.cli.main import app

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("integrations/*/README.md")]
)
LANGUAGES = {"python": "python", "py": "python", "bash": "bash", "sh": "bash", "shell": "bash", "console": "bash"}
BLOCK = re.compile(
    r"^(?:<!--[ ]*not[ ]run\b(?P<excuse>.*?)-->\s*\n)?"
    r"(?P<indent>[ ]*)```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^[ ]*```[ ]*$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block: ``line`` is that of its first line of code."""

    language: str
    code: str
    line: int


def blocks(markdown: str) -> list[Block]:
    """The Python and shell blocks to be checked; those excused, with a reason, are left out."""
    found = []
    for match in BLOCK.finditer(markdown):
        language = LANGUAGES.get(match["language"].lower())
        line = markdown.count("\n", 0, match.start("code")) + 1
        if match["excuse"] is not None:
            assert re.match(r":\s*\w", match["excuse"]), f"line {line}: write <!-- not run: the reason -->"
        elif language is not None:
            indent = len(match["indent"])
            code = "".join(text[indent:] if text.strip() else text for text in match["code"].splitlines(keepends=True))
            found.append(Block(language, code, line))
    return found


def run_python(markdown: str, name: str) -> None:
    """Execute the Python blocks in order, so that a traceback points into the document."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(markdown):
        if block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.code, name, "exec", dont_inherit=True), namespace)


def commands(script: str) -> list[list[str]]:
    """The simple commands of a shell script, without prompts, comments and assignments before them."""
    found = []
    for text in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(re.sub(r"^\s*\$ ", "", text), posix=True, punctuation_chars="|&;<>()")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("|&;()"):
                found += [words] if words else []
                words = []
            elif words or not re.match(r"\w+=", word):
                words.append(word)
    return found


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))


@functools.cache
def help_of(*words: str) -> str | None:
    """The help of a sub-command as a user gets it, or None if there is no such sub-command."""
    wide = {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}
    run = CliRunner(env=wide).invoke(app, [*words, "--help"], prog_name="tte-retriever")
    return run.stdout if run.exit_code == 0 else None


def complaints(script: str) -> list[str]:
    """What a reader who copies these commands would stumble over."""
    found = []
    for program, *words in commands(script):
        if program == "make":
            targets = [word for word in words if not word.startswith("-") and "=" not in word]
            found += [f"make {target}: no such target" for target in targets if target not in make_targets()]
        elif Path(program).name == "tte-retriever":
            found += _complaints_about(words)
    return found


def _complaints_about(words: list[str]) -> list[str]:
    names = [word for word in words[:2] if re.fullmatch(r"[a-z][a-z0-9-]*", word)]
    shown = help_of(*names[:1])
    if shown is not None and names and re.search(r"Usage:.*\bCOMMAND\b", shown):
        shown = help_of(*names[:2])  # a group, as in `tte-retriever recipes ls`
    if shown is None:
        return [f"tte-retriever {' '.join(names)}: no such command"]
    options = [word.split("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)]
    return [
        f"tte-retriever {' '.join(names)}: no option {option}"
        for option in options
        if option != "--help" and not re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", shown)
    ]


def shown(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize(
    "document",
    [path if path == ROOT / "README.md" else pytest.param(path, marks=pytest.mark.slow) for path in DOCUMENTS],
    ids=shown,
)
def test_the_python_of_a_document_runs(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_python(document.read_text(), str(document))


@pytest.mark.parametrize("document", DOCUMENTS, ids=shown)
class TestDocument:
    def test_its_commands_exist(self, document):
        shell = [block for block in blocks(document.read_text()) if block.language == "bash"]
        found = [f"line {block.line}: {complaint}" for block in shell for complaint in complaints(block.code)]
        assert not found, "\n" + "\n".join(found)

    def test_its_links_lead_somewhere(self, document):
        links = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", document.read_text())
        assert [link for link in links if not (document.parent / link).exists()] == []


# The checker itself -------------------------------------------------------------------------------------------------


def fenced(language, code, before=""):
    return f"text\n\n{before}```{language}\n{code}\n```\n\n"


def test_blocks_of_a_document_share_a_namespace_and_keep_their_line_numbers():
    good = fenced("python", "x = 1") + fenced("python", "x += 1\nassert x == 2")
    run_python(good, "good.md")
    with pytest.raises(ZeroDivisionError) as caught:
        run_python(good + fenced("python", "\n1 / 0"), "bad.md")
    frame = caught.traceback[-1]
    assert (str(frame.frame.code.raw.co_filename), frame.lineno + 1) == ("bad.md", 18)


def test_only_a_reason_excuses_a_block():
    run_python(fenced("python", "1 / 0", "<!-- not run: needs a GPU -->\n"), "excused.md")
    for excuse in ("<!-- not run -->", "<!-- not run: -->"):
        with pytest.raises(AssertionError, match="the reason"):
            run_python(fenced("python", "1 / 0", f"{excuse}\n"), "excused.md")


def test_an_indented_block_runs():
    with pytest.raises(ZeroDivisionError):
        run_python("1. item\n   ```py\n   if True:\n       1 / 0\n   ```\n", "list.md")


def test_commands_are_split_like_a_shell_does():
    script = "$ cd x && make test ARGS='-k a' # no\nA=1 make \\\n  lint | tee log; (tte-retriever demo)\n"
    assert commands(script) == [
        ["cd", "x"],
        ["make", "test", "ARGS=-k a"],
        ["make", "lint"],
        ["tee", "log"],
        ["tte-retriever", "demo"],
    ]


def test_commands_that_do_not_exist_are_found():
    assert complaints("make demo test ARGS=x\npip install y") == []
    assert complaints("make coffee") == ["make coffee: no such target"]
    assert complaints(".venv/bin/tte-retriever demmo") == ["tte-retriever demmo: no such command"]
    assert complaints("tte-retriever demo --seed 3 --sugar=2") == ["tte-retriever demo: no option --sugar"]
