"""`tally status`: can I trust the views right now, and how far behind are they."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tallystream import settings as environment

LONG = 60.0  # seconds: a query that runs as long takes its share of the processor from the stream
ACCOUNTS = ("consumed", "applied", "duplicate", "late", "dead", "shed")


def status(as_json: Annotated[bool, typer.Option("--json", help="Machine-readable, on stdout.")] = False) -> None:
    """Per partition: position, log end, lag, watermark and accounts; the last commit; the views.

    The accounts always balance: consumed = applied + duplicate + late + dead + shed.
    """
    from tallystream.warehouse.status import collect

    found = collect(environment.load())
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        show(found, Console())


def _table(found: dict[str, Any], numbers: tuple[str, ...], text: str | None) -> Table:
    """A row a partition. Two of them, for one would be wider than 80 columns."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    for name in ("partition", *numbers):
        table.add_column(name.replace("_", " "), justify="left" if name == "partition" else "right", no_wrap=True)
    if text:
        table.add_column(text, no_wrap=True)
    for p in found["partitions"]:
        cells = [f"{p['topic']}/{p['partition']}", *(f"{p[n]:,}" for n in numbers)]
        table.add_row(*cells, *([p[text] or "none yet"] if text else []))
    return table


def _health(health: dict[str, Any]) -> str:
    age, pace = health["last_commit_age_seconds"], health["commit_seconds"]
    commits = f", last commit {age:,.1f} s ago, {pace['p99'] * 1000:,.0f} ms p99" if pace else ", no commit since"
    processes = f"{health['workers']} process{'' if health['workers'] == 1 else 'es'}, writer {health['pid']}"
    queries = [s for s in health["query_seconds"] if s > LONG]
    long = f", [yellow]{len(queries)} queries run for up to {queries[0]:,.0f} s[/]" if queries else ""
    restarts = f", [yellow]restarted {health['restarts']} times[/]" if health["restarts"] else ""
    return f"{processes}, up {health['uptime_seconds']:,.0f} s{commits}{restarts}{long}"


def show(found: dict[str, Any], console: Console) -> None:
    """The same for people."""
    colour = "green" if found["stream"] == "running" else "yellow"
    console.print(f"stream [{colour}]{found['stream']}[/]   broker {found['bootstrap_servers']}")
    if found["health"]:
        console.print(_health(found["health"]))
    last = found["last_commit"]
    console.print(
        f"last commit #{last['id']} at {last['committed_at']} ({last['seconds'] * 1000:.0f} ms)"
        if last
        else "no commit yet"
    )
    console.print(_table(found, ("position", "log_end", "lag"), "watermark"))
    console.print(_table(found, ACCOUNTS, None))
    for p in found["gone"]:
        console.print(
            f"{p['topic']}/{p['partition']} is gone from the broker; {p['consumed']:,} of it are in the books"
        )
    for topic, watermark in found["watermarks"].items():
        console.print(f"watermark of {topic}: {watermark or 'none: a partition never had an event'}")
    for view in found["views"]:
        built = "" if view["built"] is None else f" ({view['built']:.0%})"
        rows = ", ".join(f"{n:,} {kind}" for kind, n in view.get("rows", {}).items() if n)
        console.print(f"view {view['name']} {view['status']}{built}  rows: {rows or 'none'}")
    console.print(
        f"warehouse {found['bytes']['warehouse'] / 1e6:,.1f} MB, its log {found['bytes']['log'] / 1e6:,.1f} MB"
    )
    for p in found["idle"]:
        behind = "it never had an event" if p["behind_seconds"] is None else f"{p['behind_seconds']:,.0f} s behind"
        console.print(
            f"[yellow]idle[/] {p['topic']}/{p['partition']} holds the watermark back ({behind}); "
            f"its producer sends heartbeats, or once: tally produce --heartbeat --topic {p['topic']}"
        )
    for p in found["partitions"]:
        if p["clock_ahead"]:
            console.print(
                f"[yellow]clock ahead[/] {p['topic']}/{p['partition']}: {p['clock_ahead']:,} dead letters whose event_time "
                "was ahead of their own timestamp: a producer's clock is wrong"
            )
    if not found["balanced"]:
        console.print("[bold red]the accounts do not balance[/]: consumed is not the sum of the others")
