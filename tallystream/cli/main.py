"""`tally`: each command lives in a module of its own, imported when it is called.

Importing all of them costs a second (polars, duckdb, librdkafka); `tally status` in a loop should not pay it.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click
import typer
from rich.console import Console

from tallystream.errors import TallyError

# Command -> the module with its function or Typer app of the same name, and the line `--help` shows.
COMMANDS = {
    "up": "Broker, generator at a gentle rate, and stream, until Ctrl-C.",
    "run": "Consume the topics into the views, to the end or for ever.",
    "status": "Offsets, lag, watermarks, accounts and the last commit.",
    "sql": "Query the views with SQL, live or at rest.",
    "views": "List, check and explain the views.",
    "broker": "The embedded broker: start, stop, status.",
    "produce": "Publish the events of a file.",
    "generate": "Publish the events of a synthetic shop.",
    "redrive": "Put late events or dead letters back into the views, once.",
    "archive": "Copy what was tallied to Parquet in the object store.",
    "snapshot": "Data, offsets and views into the object store.",
    "restore": "A snapshot becomes the warehouse of an empty TALLY_HOME.",
    "reset": "Accept that a log went back, and say from where to go on.",
}


class LazyGroup(click.Group):
    """A group whose commands are imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order of a day's work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command's module; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        found: Any = getattr(importlib.import_module(f"tallystream.cli.{cmd_name}"), cmd_name)
        if isinstance(found, typer.Typer):
            return typer.main.get_command(found)
        app = typer.Typer(add_completion=False, rich_markup_mode="rich")
        app.command(name=cmd_name)(found)
        return typer.main.get_command(app)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list for `--help`, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tallystream", prog_name="tally")
def tally() -> None:
    """Every event is tallied exactly once, and everyone can check the books."""


def main() -> None:
    """The entry point: errors of ours become one line on stderr and their exit code."""
    try:
        tally(standalone_mode=True)
    except TallyError as error:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"[bold red]error:[/] {_plain(error)}")
        sys.exit(error.exit_code)


def _plain(error: TallyError) -> str:
    return str(error).replace("[", "\\[")


if __name__ == "__main__":
    main()
