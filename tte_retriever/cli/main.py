"""The ``tte-retriever`` command: runs sub-commands, and turns errors into one sentence and an exit code.

A sub-command is a function under the entry-point group ``tte_retriever.commands`` of any installed distribution.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from tte_retriever import __version__
from tte_retriever.errors import TTEError

if TYPE_CHECKING:
    from collections.abc import Sequence

GROUP = "tte_retriever.commands"
"""The entry-point group of sub-commands."""

_INTERRUPTED = 130  # the exit code of a program that was ended by Ctrl-C


class _Commands(TyperGroup):
    """Sub-commands from entry points, imported when they run or their help is shown."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(command.name for command in entry_points(group=GROUP))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        for command in entry_points(group=GROUP, name=cmd_name):
            app = typer.Typer(add_completion=False)
            app.command(name=cmd_name)(command.load())
            return typer.main.get_command(app)
        return None

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except TTEError as error:
            typer.echo(f"tte-retriever: {error}", err=True)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as interrupt:
            typer.echo("tte-retriever: stopped", err=True)
            raise typer.Exit(_INTERRUPTED) from interrupt


app = typer.Typer(cls=_Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tte-retriever {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Multimodal embeddings that think first: build, train, evaluate and search."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: with 0 for success, 1 for a failed run, 2 for bad usage or input, 130 for Ctrl-C.

    Args:
        arguments: The arguments after the name of the program; ``None`` reads them from the process.
    """
    app(args=arguments, prog_name="tte-retriever")
