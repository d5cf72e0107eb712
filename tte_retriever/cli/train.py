"""``tte-retriever train``: run the training that a config describes."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  (typer reads the annotations)
from typing import Annotated

import typer


def train(
    config: Annotated[Path, typer.Argument(help="A YAML file, such as recipes/configs/tte-flash/tiny.yaml.")],
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Override a value of the config, such as max_steps=2 or loss.stop_gradient=true.",
        ),
    ] = None,
) -> None:
    """Train a checkpoint in stages. Run the same command again to continue a run that was stopped."""
    import logging

    from tte_retriever.training.config_files import read_config

    logging.basicConfig(format="%(message)s")
    logging.getLogger("tte_retriever").setLevel(logging.INFO)
    settings = read_config(config, set_ or ())

    from accelerate import PartialState
    from transformers.utils import logging as transformers_logging

    from tte_retriever.methods.table import METHODS
    from tte_retriever.training.run import train as run

    transformers_logging.disable_progress_bar()
    result = run(settings)
    if PartialState().is_main_process:  # accelerate launch starts several
        typer.echo(f"{result}: trained. Load it with {METHODS[settings.model.method].how_to_load(result)}.")
