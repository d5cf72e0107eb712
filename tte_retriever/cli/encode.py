"""``tte-retriever encode``: a file of items into an array of vectors."""

from __future__ import annotations

import json
from pathlib import Path  # noqa: TC003  (typer reads the annotations)
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tte_retriever.cli.options import with_model_options
from tte_retriever.errors import InputError
from tte_retriever.options import ModelOptions  # noqa: TC001  (typer reads the annotations)
from tte_retriever.prompts import document_prompt_name, query_prompt_name

if TYPE_CHECKING:
    from collections.abc import Iterator


@with_model_options("tte-flash-tiny")
def encode(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN.jsonl",
            help='One item a line: "a text", or {"text": …, "image": "red.png", "video": "clip.mp4"}, or a list of chat '
            "messages. Paths are relative to the file.",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT.npy", help="The new file: an array (N, E) of float32.")],
    query: Annotated[bool, typer.Option("--query", help="Encode queries. Default: documents.")] = False,
    *,
    options: ModelOptions,
) -> None:
    """Encode the items of a file into one array of vectors, in their order."""
    if out.suffix != ".npy" or out.exists() or not out.absolute().parent.is_dir():
        raise InputError(f"{out} cannot be written; give a new file OUT.npy in a folder that exists.")
    lines = _lines(source)
    if not lines:
        raise InputError(f"{source} has no items; give one JSON value a line.")

    from numpy.lib.format import open_memmap

    from tte_retriever.atomic import atomic_write
    from tte_retriever.cli.loading import load_encoder

    encoder = load_encoder(options)
    prompt_name = (query_prompt_name if query else document_prompt_name)(encoder.prompts)
    vectors = encoder.embed(_items(source, lines), prompt_name=prompt_name)
    dimension = encoder.get_embedding_dimension() or len(encoder.encode("a"))
    with atomic_write(out) as draft:
        array = open_memmap(draft, "w+", "float32", (len(lines), dimension))
        for row, vector in enumerate(vectors):
            array[row] = vector
        array.flush()
    typer.echo(f"{out}: {len(lines)} vectors of {dimension} dimensions")


def _lines(path: Path) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers. They are read once, so that ``path`` may be a pipe."""
    try:
        with path.open(encoding="utf-8") as file:
            return [(number, line) for number, line in enumerate(file, start=1) if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); give a file of JSON lines in UTF-8.") from error


def _items(path: Path, lines: list[tuple[int, str]]) -> Iterator[Any]:
    from tte_retriever.training.data.item_codec import decode_item, encode_item

    for number, line in lines:
        try:
            yield decode_item({"json": encode_item(json.loads(line), path.parent)})
        except (ValueError, RecursionError) as error:  # an InputError, or no JSON
            raise InputError(f"{path}, line {number}: {error}") from error
