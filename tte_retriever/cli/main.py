"""The ``tte-retriever`` command: finds its sub-commands and turns errors into one sentence and an exit code.

A sub-command is a function under the entry-point group ``tte_retriever.commands``, of this distribution or another.
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

_INTERRUPTED = 130  # what shells report for a program that Ctrl-C ended


class _Commands(TyperGroup):
    """Sub-commands by entry point, imported when they are called or described."""

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


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


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
    """Think before you embed: text, images, video and pages in, one vector out, and search over all of them."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 a run that failed, 2 bad usage or input, 130 stopped by Ctrl-C.

    Args:
        arguments: What follows the program's name; ``None`` takes it from the process.
    """
    app(args=arguments, prog_name="tte-retriever")
