"""`tally compact`: final rows go cold, and the file stays small."""

from __future__ import annotations

import contextlib
import json
from typing import Annotated, Any

import typer

from tallystream import settings as environment
from tallystream.errors import WarehouseError
from tallystream.settings import Settings


def compact(as_json: Annotated[bool, typer.Option("--json", help="Machine-readable, on stdout.")] = False) -> None:
    """Move final rows of the views to cold storage, shorten old books, and checkpoint; live or at rest.

    A running stream does it by itself every minute. No row of any view changes by it.
    """
    s = environment.load()
    if not s.warehouse.exists():
        raise WarehouseError(f"there is no warehouse at {s.warehouse}, so nothing to compact; `tally run` comes first")
    done = _compact(s)
    if as_json:
        typer.echo(json.dumps(done, indent=2))
        return
    for name, rows in done["moved"].items():
        view = done["after"]["views"][name]
        typer.echo(f"{name}: {rows:,} rows moved; {view['hot']:,} hot, {view['cold']:,} cold")
    typer.echo(f"commits: {done['commit_rows_joined']:,} rows fewer")
    before, after = (done[at]["warehouse_bytes"] + done[at]["log_bytes"] for at in ("before", "after"))
    typer.echo(f"file: {before / 1e6:,.1f} MB before, {after / 1e6:,.1f} MB after, {done['seconds']:.2f} s")


def _compact(s: Settings) -> dict[str, Any]:
    # Imported here: the help of the command needs neither DuckDB nor librdkafka.
    from tallystream.warehouse.actions import recovery_actions
    from tallystream.warehouse.control import ask_writer, open_prepared, run_lock

    answer = ask_writer(s, "compact", {})
    if answer is not None:
        return answer
    with run_lock(s), open_prepared(s) as con:
        return recovery_actions(con, s, contextlib.nullcontext(), live=False)["compact"]({})
