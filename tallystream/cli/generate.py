"""`tally generate`: the synthetic shop."""

from __future__ import annotations

import secrets
import signal
import time
from datetime import UTC, datetime
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tallystream import settings as environment

SEEDS = 2**31


def generate(
    events: Annotated[int, typer.Option(min=1, help="Distinct events over both topics, exactly.")],
    rate: Annotated[float | None, typer.Option(min=0.01, help="Events a second, sent as they happen.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Same seed, same events.", show_default="another each time")
    ] = None,
    duplicates: Annotated[
        float, typer.Option(min=0, max=1, help="Share of events that are sent twice; come on top.")
    ] = 0.0,
    disorder: Annotated[
        float, typer.Option(min=0, help="Seconds by which an event may arrive after newer ones.")
    ] = 0.0,
    malformed: Annotated[int, typer.Option(min=0, help="Messages that are no events; come on top.")] = 0,
    heartbeat: Annotated[
        bool,
        typer.Option("--heartbeat", help="Tell idle partitions the time: at the end, and now and then with --rate."),
    ] = False,
    start: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%dT%H:%M:%SZ"], help="Time of the first event, UTC.", show_default="so that the last is now"
        ),
    ] = None,
) -> None:
    """Publish a synthetic shop: users click, order, stock is reserved, payments complete or orders are cancelled.

    Nothing is late while --disorder stays some seconds below TALLY_LATENESS. Event times go at --rate, or
    stretch over 5 minutes, or 1000 a second where that is longer.
    """
    # Imported here: the help of the command needs neither Arrow nor librdkafka.
    from tallystream.topics import generate as load
    from tallystream.topics.shop import Shop

    settings = environment.load()
    console = Console(stderr=True)
    shop = Shop(events, secrets.randbelow(SEEDS) if seed is None else seed, 0, rate, duplicates, disorder)
    now = int(time.time() * 1e6)
    if start is not None:
        begin = int(start.replace(tzinfo=UTC).timestamp() * 1e6)
    else:
        begin = now if rate else now - int(events * shop.step)
    shop = Shop(events, shop.seed, begin, rate, duplicates, disorder)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with (
        Interrupt() as interrupt,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        task = bar.add_task("generating", total=events * (1 + duplicates))
        done = load.generate(
            settings,
            shop,
            malformed,
            bool(rate),
            lambda n: bar.update(task, advance=n),
            lambda: interrupt.asked,
            heartbeat,
        )
    for topic, count in sorted(done.messages.items()):
        typer.echo(f"published {count} messages to {topic}")
    total = sum(done.messages.values())
    distinct = total - done.copies - done.malformed - done.heartbeats
    beats = f", {done.heartbeats} heartbeats" if heartbeat else ""
    typer.echo(f"seed {shop.seed}: {distinct} events, {done.copies} copies, {done.malformed} malformed{beats}")
    console.print(f"{done.seconds:.1f} s, {total / done.seconds:,.0f} messages/s")


class Interrupt:
    """Ctrl-C and SIGTERM end the shop in good order: what was sent is delivered and counted."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Interrupt:
        """Listens; a second signal ends at once."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        """Listens no more."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        self.asked = True
