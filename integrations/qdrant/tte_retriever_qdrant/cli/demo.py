"""``tte-retriever demo``: make sample media, index it, search it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tte_retriever.errors import InputError
from tte_retriever_qdrant.cli.search import place_of

if TYPE_CHECKING:
    from tte_retriever_qdrant.demo.asking import Answer

_MODEL = "tte-flash-tiny"
_MARKER = ".tte-retriever-demo"
"""Stands in a folder that the demo made and may therefore overwrite."""
_FLOOR = 0.75
"""Share of right answers below which the demo counts as failed."""


def demo(
    seed: Annotated[int, typer.Option(help="Another seed draws another folder.")] = 0,
    out: Annotated[Path, typer.Option(help="Where files, store, contact sheet and page go.")] = Path("tte-demo"),
    json_lines: Annotated[bool, typer.Option("--json", help="One JSON object per question on stdout.")] = False,
) -> None:
    """Draw a folder of images, PDFs, videos and texts, index it, and ask questions whose answers are known."""
    from tte_retriever.cli.loading import load_encoder
    from tte_retriever.options import ModelOptions
    from tte_retriever_qdrant.demo.asking import ask
    from tte_retriever_qdrant.demo.folder import draw_folder
    from tte_retriever_qdrant.demo.pictures import contact_sheet, page
    from tte_retriever_qdrant.ingestion import ingest
    from tte_retriever_qdrant.stores import open_store

    console = Console(stderr=json_lines)
    _claim(out)
    files, store_folder = out / "files", out / "store"
    shutil.rmtree(store_folder, ignore_errors=True)  # of an earlier demo, perhaps with another model
    questions = draw_folder(files, seed)
    encoder = load_encoder(ModelOptions(_MODEL))
    with open_store(f"edge://{store_folder.resolve()}") as store:
        report = ingest(files, store, encoder, model_name=_MODEL)
        console.print(f"{report.files} files in {files}, {report.points} points in {store_folder}")
        answers = [ask(store, encoder, question) for question in questions]
    contact_sheet(answers, files).save(out / "contact-sheet.png")
    (out / "index.html").write_text(page(answers, files), encoding="utf-8")
    if json_lines:
        for answer in answers:
            typer.echo(json.dumps(answer.as_dict(), ensure_ascii=False))
    else:
        _print_answers(console, answers)
    right = sum(answer.correct for answer in answers)
    console.print(f"{right} of {len(answers)} right. Look at {out / 'contact-sheet.png'} or {out / 'index.html'}.")
    if right < _FLOOR * len(answers):
        raise typer.Exit(1)


def _claim(out: Path) -> None:
    """Make the folder, or make sure that an earlier demo did: whatever else is in it would be overwritten."""
    marker = out / _MARKER
    if out.exists() and not marker.is_file() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and was not made by this demo; give a new folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    marker.touch()


def _print_answers(console: Console, answers: list[Answer]) -> None:
    from tte_retriever_qdrant.demo.asking import correct_by_kind

    table = Table("question", "top 3", "", "ms")
    for answer in answers:
        image = f"[{answer.question.image.name}] " if answer.question.image else ""
        hits = "\n".join(f"{hit.score:.3f}  {place_of(hit)}" for hit in answer.hits)
        mark = Text("right", "green") if answer.correct else Text("wrong", "red")
        table.add_row(Text(image + answer.question.text), Text(hits), mark, f"{answer.milliseconds:.0f}")
    console.print(table)
    for kind, (right, asked) in correct_by_kind(answers).items():
        console.print(f"{kind}: {right} of {asked}", highlight=False)
