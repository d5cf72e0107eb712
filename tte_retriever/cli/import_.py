"""``tte-retriever import``: convert a public checkpoint to a folder that ``TTEEncoder`` loads."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  (typer reads the annotations)
from typing import Annotated

import typer


def import_(
    ctx: typer.Context,
    src: Annotated[str, typer.Argument(help="Folder or hub id of the original checkpoint.")],
    out: Annotated[Path, typer.Argument(help="The new folder.")],
    origin: Annotated[str, typer.Option("--from", help="Project that it comes from: plume, ume-r1 or wemm.")],
    steps: Annotated[int | None, typer.Option(help="plume: K, the number of latent steps. Default: 8.")] = None,
    active_experts: Annotated[
        int | None, typer.Option("--top-k", help="plume: number of experts chosen at each step. Default: 2.")
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(help="plume: hidden state that the router reads: disc (default), prefix_last or none."),
    ] = None,
    positions: Annotated[
        str | None, typer.Option(help="plume: positions of the latent steps: kv (default), mrope or kv-then-mrope.")
    ] = None,
    prefix: Annotated[str | None, typer.Option(help="plume: text before the latent steps.")] = None,
    suffix: Annotated[str | None, typer.Option(help="plume: text after the latent steps.")] = None,
    readout: Annotated[
        str | None,
        typer.Option(
            help="plume: token whose state is the vector: gen (default); or disc or after_disc, without latent steps."
        ),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            help="ume-r1: token whose state is the vector: gen (default), after a rationale; or disc, without one."
        ),
    ] = None,
    most_tokens: Annotated[
        int | None, typer.Option(help="ume-r1: largest number of tokens of a rationale. Default: 4096.")
    ] = None,
) -> None:
    """Convert a public checkpoint, with the settings that its authors pass on their command line."""
    from transformers.utils import logging as transformers_logging

    from tte_retriever.importing import import_checkpoint

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # it warns about keys in config.json that older releases wrote
    # The parameters have the names of the settings.
    given = {name: value for name, value in ctx.params.items() if value is not None}
    import_checkpoint(**given)
    typer.echo(f'{out}: imported. Load it with TTEEncoder("{out}").')
