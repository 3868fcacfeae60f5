"""`tally`: each command lives in a module of its own, imported when it is called.

Importing all of them costs a second (polars, duckdb, librdkafka); `tally status` in a loop should not pay it.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from tallystream import __version__
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
    "replay": "A range of the log once more: in a sandbox, as a difference, promoted.",
    "redrive": "Put late events or dead letters back into the views, once.",
    "compact": "Move final rows to cold storage, shorten old books, checkpoint.",
    "explain-row": "Which offsets, commits and code made a row of a view.",
    "archive": "Copy what was tallied to Parquet in the object store.",
    "snapshot": "Data, offsets and views into the object store.",
    "restore": "A snapshot becomes the warehouse of an empty TALLY_HOME.",
    "reset": "Accept that a log went back, and say from where to go on.",
}


class LazyGroup(TyperGroup):
    """A group whose commands are imported on use."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        """All commands, in the order of a day's work."""
        return list(COMMANDS)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
        """Imports the command's module; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        module = cmd_name.replace("-", "_")
        found: Any = getattr(importlib.import_module(f"tallystream.cli.{module}"), module)
        if not isinstance(found, typer.Typer):
            app = typer.Typer(add_completion=False, rich_markup_mode="rich")
            app.command(name=cmd_name)(found)
            found = app
        command = typer.main.get_command(found)
        command.name, command.short_help = cmd_name, COMMANDS[cmd_name]
        return command


app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tally {__version__}")
        raise typer.Exit


@app.callback()
def tally(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """Every event is tallied exactly once, and everyone can check the books."""


def main() -> None:
    """The entry point: errors of ours become one line on stderr and their exit code."""
    # SQL that begins with a comment is no option: `tally sql "$(cat query.sql)"`.
    sys.argv[1:] = [f"\n{arg}" if arg.startswith(("-- ", "--\n")) else arg for arg in sys.argv[1:]]
    try:
        app()
    except TallyError as error:
        _tell(str(error), error.exit_code)
    except BrokenPipeError:
        # Who read our output has seen enough: `tally sql … | head`. Nothing may be flushed into the closed pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        _tell(
            f"{error.filename}: {error.strerror}; is TALLY_HOME a folder that can be written to, with room on its disk?",
            1,
        )


def _tell(sentence: str, code: int) -> None:
    told = sentence.replace("[", "\\[")
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"[bold red]error:[/] {told}")
    sys.exit(code)
