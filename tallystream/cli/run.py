"""`tally run`: prepares the warehouse, then supervises the processes of the flow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tallystream import settings as environment


def run(
    until_end: Annotated[
        bool,
        typer.Option("--until-end", help="Stop at the ends that the partitions have now, instead of running for ever."),
    ] = False,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that share the partitions.")] = 1,
    views: Annotated[
        Path | None,
        typer.Option(help="Folder of the view files.", exists=True, file_okay=False, show_default="sql/views"),
    ] = None,
) -> None:
    """Consume orders and clicks into the views, exactly once.

    Goes on where the last commit ended, whatever happened since. Ctrl-C and SIGTERM end with a
    last commit and exit 0. New or changed views are built from the start of the retained log first.
    """
    # Imported here: the help of the command needs neither DuckDB nor librdkafka.
    from tallystream.cli.supervise import Supervisor

    code = Supervisor(environment.load(), views, workers, until_end, Console(stderr=True)).run()
    raise typer.Exit(code)
