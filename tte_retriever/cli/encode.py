"""``tte-retriever encode``: a file of items into an array of vectors."""

from __future__ import annotations

import json
from pathlib import Path  # noqa: TC003  (typer reads the annotations)
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tte_retriever.cli.options import with_model_options
from tte_retriever.errors import InputError
from tte_retriever.options import ModelOptions  # noqa: TC001  (typer reads the annotations)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tte_retriever.encoder import TTEEncoder


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
    if not source.is_file():  # it is read twice, which a pipe is not
        raise InputError(f"{source} is not a file; write the items into one first.")
    count = sum(1 for _ in _lines(source))
    if not count:
        raise InputError(f"{source} has no items; give one JSON value a line.")

    from numpy.lib.format import open_memmap

    from tte_retriever.atomic import atomic_write
    from tte_retriever.cli.loading import load_encoder

    encoder = load_encoder(options)
    vectors = encoder.embed(_items(source), prompt_name=_prompt_name(encoder, query=query))
    dimension = encoder.get_embedding_dimension() or len(encoder.encode("a"))
    with atomic_write(out) as draft:
        array = open_memmap(draft, "w+", "float32", (count, dimension))
        for row in range(count):
            if (vector := next(vectors, None)) is None:
                raise InputError(
                    f"{source} had {count} items and has {row} now; encode it again when it no longer changes."
                )
            array[row] = vector
        array.flush()
    typer.echo(f"{out}: {count} vectors of {dimension} dimensions")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers."""
    try:
        with path.open(encoding="utf-8") as file:
            yield from ((number, line) for number, line in enumerate(file, start=1) if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); give a file of JSON lines in UTF-8.") from error


def _items(path: Path) -> Iterator[Any]:
    from tte_retriever.training.data.item_codec import decode_item, encode_item

    for number, line in _lines(path):
        try:
            yield decode_item({"json": encode_item(json.loads(line), path.parent)})
        except (ValueError, RecursionError) as error:  # an InputError, or no JSON
            raise InputError(f"{path}, line {number}: {error}") from error


def _prompt_name(encoder: TTEEncoder, *, query: bool) -> str | None:
    from tte_retriever.fingerprints import DOCUMENT_PROMPTS

    return next((name for name in (("query",) if query else DOCUMENT_PROMPTS) if name in encoder.prompts), None)
