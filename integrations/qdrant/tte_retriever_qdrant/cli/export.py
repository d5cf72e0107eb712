"""``tte-retriever export``: a store as a file that other systems read."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated

import typer

from tte_retriever.errors import InputError


def export(
    store: Annotated[str, typer.Option(help="edge://dir or http(s)://host:6333/collection.", metavar="URI")],
    parquet: Annotated[Path, typer.Option(help="The file to write, a new one.")],
) -> None:
    """Write ids, vectors and payloads to a Parquet file, for Spark, Daft and others."""
    from tte_retriever_qdrant.stores import open_store

    try:
        from tte_retriever_qdrant.exporting import export_parquet
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        message = "pyarrow is not installed, which writes Parquet: pip install 'tte-retriever-qdrant[parquet]'"
        raise InputError(message) from error

    with open_store(store, create=False) as opened:
        count = export_parquet(opened, parquet)
    typer.echo(f"{count} points of {store} are in {parquet}")
