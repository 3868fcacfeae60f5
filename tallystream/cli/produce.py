"""`tally produce`: the events of a file."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from tallystream import settings as environment
from tallystream.errors import UsageError
from tallystream.settings import TOPICS, Settings


class Topic(StrEnum):
    """The topics with a contract."""

    orders = "orders"
    clicks = "clicks"


def produce(
    file: Annotated[
        str | None, typer.Argument(help="NDJSON, one event a line, or rees46 CSV; gzip or plain; - for standard input.")
    ] = None,
    topic: Annotated[
        Topic | None,
        typer.Option(help="Where the events go. A rees46 file holds both: lines of the other are passed over."),
    ] = None,
    heartbeat: Annotated[
        bool, typer.Option("--heartbeat", help="No file: tell every partition the time, of --topic or of both.")
    ] = False,
    time: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%dT%H:%M:%SZ"], help="The time that --heartbeat tells, UTC.", show_default="now"),
    ] = None,
) -> None:
    """Publish the events of a file, in its order.

    The whole file is checked first. Invalid lines are named, exit 1, and nothing is published.
    A heartbeat moves the watermark of partitions in which nothing happens; it is counted, and reaches no view.
    """
    if heartbeat:
        if file is not None:
            raise UsageError("--heartbeat takes no file: publish the file first, then the heartbeat")
        _heartbeat(environment.load(), topic, time)
        return
    if file is None or topic is None:
        raise UsageError(
            "say which file goes to which topic: `tally produce FILE --topic orders|clicks`; or --heartbeat"
        )
    if time is not None:
        raise UsageError("--time is what --heartbeat tells; the events of a file have times of their own")
    # Imported here: the help of the command needs neither Arrow nor librdkafka.
    from tallystream.topics.produce import produce as publish

    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(f"checking {file}, then publishing it to {topic.value}", soft_wrap=True, highlight=False)
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


def _heartbeat(settings: Settings, topic: Topic | None, time: datetime | None) -> None:
    from tallystream.topics.heartbeat import send_heartbeats

    now = datetime.now(UTC)
    told = now if time is None else time.replace(tzinfo=UTC)
    if told > now + timedelta(seconds=settings.max_ahead):
        raise UsageError(
            f"{told:%Y-%m-%dT%H:%M:%SZ} is more than TALLY_MAX_AHEAD ({settings.max_ahead} s) ahead of the clock: "
            "every such heartbeat would be a dead letter; nothing was published"
        )
    sent = send_heartbeats(settings, TOPICS if topic is None else [topic.value], int(told.timestamp() * 1e6))
    for name, partitions in sorted(sent.items()):
        typer.echo(f"published {partitions} heartbeats to {name}, one a partition, of {told:%Y-%m-%dT%H:%M:%SZ}")
