"""`tally produce`: the events of a file."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from tallystream import settings as environment


class Topic(StrEnum):
    """The topics with a contract."""

    orders = "orders"
    clicks = "clicks"


def produce(
    file: Annotated[
        str, typer.Argument(help="NDJSON, one event a line, or rees46 CSV; gzip or plain; - for standard input.")
    ],
    topic: Annotated[
        Topic, typer.Option(help="Where the events go. A rees46 file holds both: lines of the other are passed over.")
    ],
) -> None:
    """Publish the events of a file, in its order.

    The whole file is checked first. Invalid lines are named, exit 1, and nothing is published.
    """
    # Imported here: the help of the command needs neither Arrow nor librdkafka.
    from tallystream.topics.produce import produce as publish

    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        path = Path(file)
        # A compressed file holds more bytes than its size says: then the bar has no end to show.
        size = path.stat().st_size if path.is_file() and path.suffix != ".gz" else None
        task = bar.add_task("checking", total=size)
        events = publish(
            environment.load(),
            file,
            topic.value,
            checked=lambda n: bar.update(task, advance=n),
            found=lambda n: bar.reset(task, description="publishing", total=n),
            sent=lambda n: bar.update(task, advance=n),
        )
    typer.echo(f"published {events} events to {topic.value}")
