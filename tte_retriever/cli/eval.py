"""``tte-retriever eval``: score a model on a benchmark, as a table and as JSON."""

from __future__ import annotations

import json
from pathlib import Path  # noqa: TC003  (typer reads the annotations)
from typing import Annotated, Any

import typer

from tte_retriever.errors import InputError


def evaluate(
    model: Annotated[str, typer.Argument(help="Bundled name, folder or hub id of a model.")],
    suite: Annotated[str, typer.Option(help="Benchmark: mini-mmeb.")],
    split: Annotated[str, typer.Option(help="Split: iid, held-out or validation.")] = "iid",
    queries: Annotated[int, typer.Option(help="Number of queries per task.")] = 500,
    seed: Annotated[int, typer.Option(help="Seed with which the items are drawn.")] = 0,
    tasks: Annotated[str | None, typer.Option(help="Names of tasks, separated by commas. Default: all.")] = None,
    think_budget: Annotated[int | None, typer.Option(help="Think budget, from 0 to K. Default: K.")] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder in which vectors are cached for the next run with the same model.")
    ] = None,
    to_json: Annotated[Path | None, typer.Option("--json", help="Also write the result to this new file.")] = None,
) -> None:
    """Score any multimodal SentenceTransformer model on a benchmark."""
    if suite == "mmeb-v2":
        raise InputError("The suite 'mmeb-v2' cannot be run yet; give --suite mini-mmeb.")
    if suite != "mini-mmeb":
        raise InputError(f"The suite {suite!r} does not exist; give --suite mini-mmeb.")
    if to_json is not None and (to_json.exists() or not to_json.parent.is_dir()):
        raise InputError(
            f"{to_json} cannot be written. Give --json a file that does not exist yet, in a folder that does."
        )
    from rich.console import Console

    from tte_retriever.cli.loading import load_model
    from tte_retriever.evaluation import mini_mmeb

    selection: dict[str, Any] = {"split": split, "seed": seed}
    report = mini_mmeb.evaluate(
        load_model(model),
        name=model,
        **selection,
        queries=queries,
        tasks=None if tasks is None else [task.strip() for task in tasks.split(",") if task.strip()],
        think_budget=think_budget,
        cache=cache,
        show_progress_bar=True,
    )
    if to_json is not None:
        to_json.write_text(json.dumps(report.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    Console().print(report.to_table())
