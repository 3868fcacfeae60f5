"""`tally replay`: a range of the log once more, in a sandbox; compared with the live views; promoted."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from tallystream import settings as environment

if TYPE_CHECKING:
    from tallystream.replay.api import ReplayResult
    from tallystream.settings import Settings

SHOWN = 40  # changed cells of the table for people; the Parquet file has all


class Mode(StrEnum):
    """What a replay is for."""

    sandbox = "sandbox"
    diff = "diff"
    promote = "promote"


class Source(StrEnum):
    """Where the messages come from."""

    kafka = "kafka"
    archive = "archive"


class TimeKind(StrEnum):
    """Whose time a range is in."""

    event = "event"
    log = "log"


def replay(
    mode: Annotated[
        Mode,
        typer.Option(help="sandbox: a file of its own; diff: compare with the live views; promote: diff, then swap."),
    ] = Mode.sandbox,
    topic: Annotated[list[str] | None, typer.Option(help="Topic; may be repeated. All when left out.")] = None,
    partition: Annotated[list[int] | None, typer.Option(help="Partition; may be repeated. All when left out.")] = None,
    from_offset: Annotated[int | None, typer.Option(help="First offset, in every partition chosen.")] = None,
    to_offset: Annotated[int | None, typer.Option(help="Offset after the last.")] = None,
    from_time: Annotated[str | None, typer.Option(help="First time, ISO 8601; UTC unless it says otherwise.")] = None,
    to_time: Annotated[str | None, typer.Option(help="Time after the last.")] = None,
    time_kind: Annotated[
        TimeKind, typer.Option(help="Whether the times are those of events or of the log.")
    ] = TimeKind.event,
    source: Annotated[Source, typer.Option(help="archive reaches beyond Kafka's retention.")] = Source.kafka,
    views: Annotated[
        Path | None,
        typer.Option(
            help="Folder of other view files.", exists=True, file_okay=False, show_default="the live definitions"
        ),
    ] = None,
    rate: Annotated[int | None, typer.Option(min=1, help="Messages a second at most.")] = None,
    undo: Annotated[
        int | None, typer.Option(help="Put back what this promotion replaced, and do nothing else.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable, on stdout.")] = False,
) -> None:
    """Replay a range of the log; ranges are half-open. Production is untouched except by promote.

    Messages are judged as the stream judged them, from the first one tallied on: with unchanged views a diff is empty.
    """
    # Imported here: the help of the command needs neither DuckDB nor librdkafka.
    from tallystream.replay import api
    from tallystream.replay.request import ReplayRequest, time_of

    s = environment.load()
    if undo is not None:
        done = api.undo(s, undo)
        typer.echo(json.dumps(done) if as_json else f"promotion {undo} undone: {', '.join(done['views'])}")
        return
    request = ReplayRequest(
        mode.value,
        tuple(topic) if topic else environment.TOPICS,
        tuple(partition) if partition else None,
        from_offset,
        to_offset,
        time_of("--from-time", from_time),
        time_of("--to-time", to_time),
        time_kind.value,
        source.value,
        views,
        rate=rate,
    )
    err = Console(stderr=True)
    with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("replaying", total=None)
        result = api.replay(s, request, lambda done, total: bar.update(task, completed=done, total=total))
    if as_json:
        cells = api.cells_of(result).to_pylist()
        typer.echo(json.dumps({**result.as_dict(), "changes": cells}, indent=2, default=str))
    else:
        _show(s, result)


def _show(s: Settings, result: ReplayResult) -> None:
    from tallystream.cli.rows import as_table
    from tallystream.replay.api import cells_of

    # A pipe has no width: keys cut to 80 characters would lose what they say.
    out = Console(soft_wrap=False, highlight=False, width=None if sys.stdout.isatty() else 10_000)
    err = Console(stderr=True, soft_wrap=True, highlight=False)
    ranges = ", ".join(f"{r['topic']}/{r['partition']} [{r['from_offset']}, {r['to_offset']})" for r in result.ranges)
    err.print(f"[dim]{result.messages:,} messages replayed: {ranges}[/]")
    for view in result.views:
        if view["left_out"]:
            err.print(f"{view['view']}: left out: {view['left_out']}")
        else:
            counts = ", ".join(f"{view[k]:,} {k}" for k in ("added", "missing", "changed"))
            err.print(f"{view['view']}: {view['compared']:,} rows compared: {counts}")
    if result.mode != "sandbox":
        table = cells_of(result)
        rows = [tuple(r.values()) for r in table.slice(0, SHOWN).to_pylist()]
        if rows:
            out.print(as_table(table.column_names, ["VARCHAR"] * len(table.column_names), rows))
        more = f", the first {SHOWN} shown" if table.num_rows > SHOWN else ""
        out.print(f"{table.num_rows:,} cells differ{more}; all in {result.diff}")
    for name, why in result.not_promoted.items():
        err.print(f"[yellow]{name} was not promoted[/]: {why}")
    if result.promotion is not None:
        out.print(f"promoted as {result.promotion}; `tally replay --undo {result.promotion}` puts the old rows back")
    elif result.mode == "promote" and not result.cells:
        out.print("nothing to promote: the live rows are those of the replay")
    if result.mode == "sandbox":
        out.print(f"query it: duckdb -readonly {result.sandbox}")
