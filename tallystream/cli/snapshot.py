"""`tally snapshot`: one committed state into the object store, live or at rest."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from tallystream import settings as environment

if TYPE_CHECKING:
    from tallystream.warehouse.manifest import Found


def snapshot(
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable, on stdout.")] = False,
    show: Annotated[
        bool, typer.Option("--list", help="Take none; list those that the store has, and what is wrong with them.")
    ] = False,
    keep_last: Annotated[int | None, typer.Option(min=1, help="Afterwards, remove older ones but these many.")] = None,
    keep_days: Annotated[float, typer.Option(min=0, help="Remove none that is younger.")] = 0,
) -> None:
    """Take a snapshot of data, offsets and views, and print its name.

    A running stream goes on meanwhile. TALLY_OBJECT_STORE says where to; with TALLY_SNAPSHOT_KEY it is sealed.
    """
    # Imported here: the help of the command needs neither DuckDB nor obstore.
    from tallystream.store.objects import open_store
    from tallystream.store.seal import key_from_environment
    from tallystream.warehouse.manifest import catalog, expire
    from tallystream.warehouse.operate import take_snapshot

    s = environment.load()
    store, key = open_store(s), key_from_environment()
    if show:
        _show([_told(found) for found in catalog(store, key)], as_json)
        return
    name = take_snapshot(s, store)
    gone = [] if keep_last is None else expire(store, keep_last, keep_days, datetime.now(UTC).replace(tzinfo=None), key)
    if as_json:
        told = next(_told(found) for found in catalog(store, key) if found.name == name)
        typer.echo(json.dumps({**told, "store": store.url, "expired": gone}, indent=2))
    else:
        typer.echo(name)


def _told(found: Found) -> dict[str, Any]:
    m = found.manifest
    return {
        "name": found.name,
        "taken_at": found.taken_at.isoformat() + "Z",
        "whole": found.good,
        "problem": None if found.problem is None else str(found.problem),
        "bytes": sum(found.sizes.values()),
        "rows": None if m is None else m.rows,
        "last_commit": None if m is None or m.last_commit is None else m.last_commit["id"],
        "sealed": None if m is None else m.key_id is not None,
    }


def _show(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table()
    for column in ("name", "bytes", "rows", "last commit", ""):
        table.add_column(column, justify="right" if column in ("bytes", "rows", "last commit") else "left")
    for r in rows:
        numbers = ("-" if r[c] is None else f"{r[c]:,}" for c in ("bytes", "rows", "last_commit"))
        table.add_row(r["name"], *numbers, r["problem"] or ("sealed" if r["sealed"] else "whole"))
    Console().print(table)
