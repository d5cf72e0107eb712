"""``tte-retriever import``: a public checkpoint becomes a folder that ``TTEEncoder`` loads."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  (typer reads the annotations)
from typing import Annotated

import typer


def import_(
    src: Annotated[str, typer.Argument(help="The original: a folder or a hub id.")],
    out: Annotated[Path, typer.Argument(help="The new folder.")],
    origin: Annotated[str, typer.Option("--from", help="Where it is from: plume or ume-r1.")],
    steps: Annotated[int | None, typer.Option(help="plume: K, the most latent steps; 8 if not given.")] = None,
    active_experts: Annotated[
        int | None, typer.Option("--top-k", help="plume: experts chosen at each step; 2 if not given.")
    ] = None,
    context: Annotated[
        str | None, typer.Option(help="plume: what the router looks at: disc (if not given), prefix_last or none.")
    ] = None,
    positions: Annotated[
        str | None, typer.Option(help="plume: where latent steps stand: kv (if not given), mrope or kv-then-mrope.")
    ] = None,
    prefix: Annotated[str | None, typer.Option(help="plume: how the thought is opened.")] = None,
    suffix: Annotated[str | None, typer.Option(help="plume: what is read after the latent steps.")] = None,
    readout: Annotated[
        str | None, typer.Option(help="plume: the vector: gen (if not given), disc or after_disc, without thought.")
    ] = None,
    mode: Annotated[
        str | None, typer.Option(help="ume-r1: the vector: gen (if not given), or disc, for which nothing is written.")
    ] = None,
    most_tokens: Annotated[
        int | None, typer.Option(help="ume-r1: the longest rationale, in tokens; 4096 if not given.")
    ] = None,
) -> None:
    """Bring a public checkpoint into the layout of this library, with all that its authors keep on their command line."""
    from transformers.utils import logging as transformers_logging

    from tte_retriever.importing import import_checkpoint

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # it warns of keys in config.json that older releases wrote
    settings = {
        "steps": steps,
        "active_experts": active_experts,
        "context": context,
        "positions": positions,
        "prefix": prefix,
        "suffix": suffix,
        "readout": readout,
        "mode": mode,
        "most_tokens": most_tokens,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    import_checkpoint(src, out, origin=origin, **given)
    typer.echo(f'{out}: imported. Load it with TTEEncoder("{out}").')
