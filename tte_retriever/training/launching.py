"""The command line that every training recipe has."""

from __future__ import annotations

import argparse
from pathlib import Path

from tte_retriever.training.config_files import read_config
from tte_retriever.training.run import train


def launch(description: str | None, *overrides: str) -> Path:
    """Read the config that the command line names, and run it.

    Args:
        description: What ``--help`` says: the recipe's docstring.
        *overrides: ``key=value`` each, which the recipe stands for, whatever the command line says.

    Returns:
        The finished checkpoint.

    Raises:
        InputError: As :func:`tte_retriever.training.config_files.read_config` and :func:`tte_retriever.training.run.train`.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value")
    arguments = parser.parse_args()
    return train(read_config(arguments.config, [*arguments.set, *overrides]))
