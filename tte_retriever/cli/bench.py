"""``tte-retriever bench``: measure inference on this machine, as a table and as JSON."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path  # noqa: TC003  (typer reads the annotations)
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from tte_retriever.cli.options import with_model_options
from tte_retriever.errors import InputError
from tte_retriever.options import ModelOptions

if TYPE_CHECKING:
    from tte_retriever.bench import Measurement


@with_model_options(help={"model": "Measure the speed of this model alone: a bundled name, folder or hub id."})
def bench(
    to_json: Annotated[
        Path | None, typer.Option("--json", help="Also write one JSON object per measurement to this new file.")
    ] = None,
    quick: Annotated[
        bool, typer.Option(help="Take a minute only, to see that it works; the numbers are not reliable.")
    ] = False,
    *,
    options: ModelOptions,
) -> None:
    """Measure inference on this machine: streaming against encode, padding, memory, and the cost of thinking.

    With --model, measure the speed of that model alone, on its device.
    """
    if options.model is None and options != ModelOptions():
        raise InputError("The options of a model were given without a model; give --model, too.")
    from tte_retriever.bench import run

    with nullcontext() if to_json is None else _new_file(to_json) as file:
        part = ""
        for measurement in run(quick=quick, model=options if options.model else None):
            if measurement.part != part:
                part = measurement.part
                typer.echo(f"\n{part}")
            typer.echo(_line(measurement))
            if file is not None:
                file.write(json.dumps(asdict(measurement), ensure_ascii=False) + "\n")
                file.flush()


def _new_file(path: Path) -> TextIO:
    try:
        return path.open("x", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{path} cannot be written: {error.strerror}. Give --json a file that does not exist yet."
        ) from error


def _line(measurement: Measurement) -> str:
    value, low, high = (f"{number:.6g}" for number in (measurement.value, measurement.low, measurement.high))
    spread = f" ({low} to {high})" if low != high else ""
    wanted = f"  wanted {measurement.wanted}" if measurement.wanted else ""
    return f"  {measurement.model} · {measurement.shape} · {measurement.quantity}: {value}{spread}{wanted}"
