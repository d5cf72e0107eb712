"""``tte-retriever doctor``: is everything as it should be, and if not, what to do."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from tte_retriever.cli.options import with_model_options
from tte_retriever.options import ModelOptions  # noqa: TC001  (typer reads the annotations)


@with_model_options(help={"model": "Bundled name, folder or hub id. Default: the model that the store was made with."})
def doctor(
    store: Annotated[str, typer.Option(help="edge://dir or http(s)://host:6333/collection.", metavar="URI")],
    json_lines: Annotated[bool, typer.Option("--json", help="One JSON object per finding.")] = False,
    *,
    options: ModelOptions,
) -> None:
    """Examine the installation, a store, its model and its index; exits with 1 if something is to be fixed."""
    from tte_retriever.cli.loading import load_encoder
    from tte_retriever_qdrant.doctor import examine

    console = Console()
    healthy = True
    for finding in examine(store, lambda name: load_encoder(replace(options, model=name)), options.model):
        healthy &= finding.ok
        if json_lines:
            typer.echo(json.dumps(asdict(finding), ensure_ascii=False))
        else:
            mark = Text("ok   ", "green") if finding.ok else Text("WRONG", "red")
            console.print(mark, Text(f"{finding.name}: {finding.detail}"), soft_wrap=True)
    if not healthy:
        raise typer.Exit(1)
