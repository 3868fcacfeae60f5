"""`tally compact`: final rows go cold, and the file stays small."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from tallystream import settings as environment


def compact(as_json: Annotated[bool, typer.Option("--json", help="Machine-readable, on stdout.")] = False) -> None:
    """Move final rows of the views to cold storage, shorten old books, and checkpoint; live or at rest.

    A running stream does it by itself every minute. No row of any view changes by it.
    """
    # Imported here: the help of the command needs neither DuckDB nor librdkafka.
    from tallystream.warehouse.operate import compact_now

    done = compact_now(environment.load())
    if as_json:
        typer.echo(json.dumps(done, indent=2))
        return
    for name, rows in done["moved"].items():
        view = done["after"]["views"][name]
        typer.echo(f"{name}: {rows:,} rows moved; {view['hot']:,} hot, {view['cold']:,} cold")
    typer.echo(f"commits: {done['commit_rows_joined']:,} rows fewer")
    before, after = (done[at]["warehouse_bytes"] + done[at]["log_bytes"] for at in ("before", "after"))
    typer.echo(f"file: {before / 1e6:,.1f} MB before, {after / 1e6:,.1f} MB after, {done['seconds']:.2f} s")
