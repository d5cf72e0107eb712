"""``tte-retriever eval``: score a model on a benchmark, as a table and as JSON."""

from __future__ import annotations

import json
from pathlib import Path  # noqa: TC003  (typer reads the annotations)
from typing import Annotated, Any

import typer

from tte_retriever.cli.options import with_model_options
from tte_retriever.errors import InputError
from tte_retriever.options import ModelOptions  # noqa: TC001  (typer reads the annotations)


@with_model_options(argument=True)
def evaluate(
    suite: Annotated[str, typer.Option(help="Benchmark: mini-mmeb.")],
    split: Annotated[str, typer.Option(help="Split: iid, held-out or validation.")] = "iid",
    queries: Annotated[int, typer.Option(help="Number of queries per task.")] = 500,
    seed: Annotated[int, typer.Option(help="Seed with which the items are drawn.")] = 0,
    tasks: Annotated[str | None, typer.Option(help="Names of tasks, separated by commas. Default: all.")] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder in which vectors are cached for the next run with the same model.")
    ] = None,
    to_json: Annotated[Path | None, typer.Option("--json", help="Also write the result to this new file.")] = None,
    *,
    options: ModelOptions,
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
        load_model(options),
        name=options.model or "",
        **selection,
        queries=queries,
        tasks=None if tasks is None else [task.strip() for task in tasks.split(",") if task.strip()],
        cache=cache,
        show_progress_bar=True,
    )
    if to_json is not None:
        to_json.write_text(json.dumps(report.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    Console().print(report.to_table())
