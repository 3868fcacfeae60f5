"""`tally explain-row`: what made this row."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any

import typer

from tallystream import settings as environment
from tallystream.errors import UsageError
from tallystream.settings import Settings


def explain_row(
    view: Annotated[str, typer.Argument(help="A view.")],
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="[COLUMN=VALUE]...", help="Columns that name one row; times in UTC.")
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Read the offsets again, and list those that made the row.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable, on stdout.")] = False,
) -> None:
    """Say which offset ranges, commits, schemas and code made a row of a view, live or at rest.

    The ranges hold all of its events, and others. --exact lists the very offsets and checks that the view's SQL over them
    gives the row. In SQL: FROM provenance('VIEW', from_time, to_time).
    """
    named = dict(_pair(k) for k in keys or [])
    told = _explain(environment.load(), view, named, exact)
    if as_json:
        typer.echo(json.dumps(told, indent=2, default=_text))
        return
    typer.echo("row          " + ", ".join(f"{k}={_text(v)}" for k, v in told["row"].items()))
    typer.echo(f"view         {view}, version {told['view_version']}")
    typer.echo(f"events       from {_text(told['events_from'])} until {_text(told['events_until'])}")
    typer.echo("watermark    " + ", ".join(f"{t} {_text(w)}" for t, w in told["watermarks"].items()))
    for r in told["ranges"]:
        typer.echo(f"offsets      {r['topic']}/{r['partition']} [{r['from']}, {r['to']})")
    for r in told["redriven"]:
        typer.echo(f"redriven     {r['topic']}/{r['partition']} {r['offset']} ({r['kind']})")
    typer.echo(f"commits      {told['commits']['first']} to {told['commits']['last']}, {len(told['commit_rows'])} rows")
    typer.echo(f"schema ids   {', '.join(map(str, told['schema_ids']))}")
    typer.echo(f"code         {', '.join(told['code_versions'])}")
    for where, offsets in told.get("offsets", {}).items():
        typer.echo(f"made by      {where}: {', '.join(map(str, offsets))}")
    if exact:
        typer.echo(f"recomputed   {'the same row' if told['recomputed'] else 'ANOTHER ROW: see `tally status`'}")


def _explain(s: Settings, view: str, keys: dict[str, str], exact: bool) -> dict[str, Any]:
    # Imported here: the help of the command needs neither DuckDB nor librdkafka.
    from tallystream.store.objects import open_store
    from tallystream.warehouse import provenance
    from tallystream.warehouse.read import open_reader
    from tallystream.warehouse.redrive import plan_of

    with open_reader(s) as reader:
        rows = reader.rows("SELECT name, sql FROM ledger.views WHERE status = 'live'")[2]
        known = dict(rows)
        if view not in known:
            raise UsageError(f"there is no live view {view}; there are: {', '.join(sorted(known)) or 'none'}")
        plan = plan_of(view, known[view])
        row = provenance.find(reader, plan, keys)
        told = provenance.provenance(reader, plan, row)
        if exact:
            told |= provenance.exact(reader, s, open_store(s), plan, row, told)
        return told


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign:
        raise UsageError(f"{text}: say COLUMN=VALUE, such as currency=EUR")
    return name, value


def _text(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.replace(tzinfo=None).isoformat() + "Z"
    return "-" if value is None else value if isinstance(value, int | float | str) else str(value)
