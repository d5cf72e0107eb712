"""``tte-retriever build``: build an untrained checkpoint from a backbone."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  (typer reads the annotations)
from typing import Annotated, Any

import typer


def build(
    out: Annotated[Path, typer.Argument(help="The new folder.")],
    backbone: Annotated[
        str, typer.Option(help="Hub id or folder of a Qwen2-VL, Qwen2.5-VL, Qwen3-VL or Qwen3.5 model.")
    ],
    method: Annotated[str, typer.Option(help="direct, tte-flash, lame, plume or explicit-cot.")] = "tte-flash",
    think_tokens: Annotated[
        int | None,
        typer.Option(
            help="K, from 0 to 64 (plume: 32). Default: 8, but 0 for direct. For explicit-cot, the largest number of "
            "tokens of a rationale; default: 512."
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="How the rows of the new tokens start: mean, keep or read-out, the default for an embedding model."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of those rows.")] = 0,
) -> None:
    """Build an untrained checkpoint of a method from a backbone, ready to be trained."""
    from transformers.utils import logging as transformers_logging

    from tte_retriever import building
    from tte_retriever.methods.table import METHODS

    transformers_logging.disable_progress_bar()
    options: dict[str, Any] = {"think_tokens": think_tokens, "init": init, "seed": seed}
    building.build(out, backbone=backbone, method=method, **options)
    typer.echo(f"{out}: built, not trained yet. Load it with {METHODS[method].how_to_load(out)}.")
