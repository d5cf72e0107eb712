"""``tte-retriever generations``: which vectors of a store are searched, and which can be gone back to."""

from __future__ import annotations

import json
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tte_retriever.errors import InputError

if TYPE_CHECKING:
    from tte_retriever_qdrant.records import GenerationInfo


class Action(str, Enum):
    """What is done with the generations of a store."""

    LS = "ls"
    COMMIT = "commit"
    ROLLBACK = "rollback"
    DROP = "drop"


class Dropped(str, Enum):
    """What may be dropped."""

    PREVIOUS = "previous"
    NEXT = "next"
    UPDATE = "update"


def generations(
    action: Annotated[
        Action,
        typer.Argument(
            help="ls: list them; commit: search the next one from now on; rollback: search the previous one again, or "
            "undo that; drop: delete one that is not searched."
        ),
    ],
    store: Annotated[str, typer.Option(help="edge://dir or http(s)://host:6333/collection.", metavar="URI")],
    dropped: Annotated[
        Dropped | None, typer.Argument(metavar="WHICH", help="Which one to drop.", show_default=False)
    ] = None,
    json_lines: Annotated[bool, typer.Option("--json", help="One JSON object per generation.")] = False,
) -> None:
    """See and change which generation of a store is searched; who has the store open stays with the one that it opened."""
    from tte_retriever_qdrant.stores import open_generations

    if (action is Action.DROP) != (dropped is not None):
        raise InputError(
            f"drop takes the generation to drop ({', '.join(Dropped)}), and nothing else does; "
            f"{action.value} was given {dropped.value if dropped else 'none'}"
        )
    with open_generations(store) as opened:
        if action is Action.COMMIT:
            opened.commit()
        elif action is Action.ROLLBACK:
            opened.rollback()
        elif dropped is not None:
            opened.drop(dropped.value)
        rows = [_described(each) for each in opened.listed()]
    if json_lines:
        for row in rows:
            typer.echo(json.dumps(row, ensure_ascii=False))
    elif not rows:
        typer.echo("no generations")
    else:
        columns = [name for name in rows[0] if name != "home"]  # for scripts: too long for a table
        table = Table(*columns)
        for row in rows:
            table.add_row(*(Text(str(row[name])) for name in columns))
        Console().print(table)


def _described(generation: GenerationInfo) -> dict[str, Any]:
    from tte_retriever_qdrant.ingestion.ledger import LEDGER, Ledger

    files = 0
    if (generation.state_dir / LEDGER).is_file():
        with Ledger(generation.state_dir / LEDGER) as ledger:
            files = sum(record.state == "WRITTEN" for record in ledger.records())
    spec = generation.spec
    return {
        "generation": generation.role,
        "model": spec.model,
        "fingerprint": spec.fingerprint,
        "dim": spec.dim,
        "prefix": spec.prefix,
        "files": files,
        "home": str(generation.state_dir),  # this key is part of the command line
    }
