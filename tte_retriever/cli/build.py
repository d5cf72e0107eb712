"""``tte-retriever build``: a backbone becomes a think-token checkpoint."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  (typer reads the annotations)
from typing import Annotated

import typer


def build(
    out: Annotated[Path, typer.Argument(help="The new folder.")],
    backbone: Annotated[str, typer.Option(help="Qwen2-VL, Qwen2.5-VL or Qwen3-VL: a hub id or a folder.")],
    method: Annotated[str, typer.Option(help="direct, tte-flash, lame, plume or explicit-cot.")] = "tte-flash",
    think_tokens: Annotated[
        int | None,
        typer.Option(
            help="K, 0 to 64 (plume: 32); 8, but 0 for direct, if not given. For explicit-cot most tokens to write: 512."
        ),
    ] = None,
    init: Annotated[str, typer.Option(help="How the rows of the new tokens start: mean or keep.")] = "mean",
    seed: Annotated[int, typer.Option(help="Of those rows.")] = 0,
) -> None:
    """Give a backbone think tokens: a folder that SentenceTransformer loads, ready to be trained."""
    from transformers.utils import logging as transformers_logging

    from tte_retriever import building
    from tte_retriever.methods.table import METHODS

    transformers_logging.disable_progress_bar()
    building.build(
        out,
        backbone=backbone,
        method=method,
        think_tokens=think_tokens,
        init=init,  # type: ignore[arg-type]  # any other word is refused with a sentence
        seed=seed,
    )
    typer.echo(f"{out}: built, not trained yet. Load it with {METHODS[method].how_to_load(out)}.")
