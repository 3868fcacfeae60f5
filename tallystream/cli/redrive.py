"""`tally redrive`: late events and dead letters go back into the views, once each."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from tallystream import settings as environment

# Account -> what a person should know about the rows in it.
MEANING = {
    "applied": "in the views now",
    "duplicate": "the event was in the views already",
    "undecodable": "dead as before: no event of the contract",
    "ahead": "dead as before: ahead of their own timestamp",
    "waiting": "younger than the lateness: redrive again later, or when the stream is stopped",
    "settled": "older than what compaction keeps to amend: replay their windows instead",
    "unproven": "neither log nor archive tells whether they are copies: left alone",
}


class Kind(StrEnum):
    """Which rows."""

    late = "late"
    dead = "dead"


def redrive(
    kind: Annotated[Kind, typer.Argument(help="Rows of late_events or of dead_letters.")],
    where: Annotated[
        str | None, typer.Option(help="A condition over the table's columns, in SQL; all rows when left out.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable, on stdout.")] = False,
) -> None:
    """Put late events or dead letters back into the views, exactly once, live or at rest.

    Dead letters are decoded again: their schema may be known now. Copies of events that were applied stay out.
    Windows that were final are amended. The rows stay where they are; ledger.redriven tells which are in the views.
    """
    # Imported here: the help of the command needs neither DuckDB nor librdkafka.
    from tallystream.warehouse.operate import redrive_now

    done = redrive_now(environment.load(), kind.value, where)
    if as_json:
        typer.echo(json.dumps(done, indent=2))
        return
    for account, meaning in MEANING.items():
        if done[account] or account == "applied":
            typer.echo(f"{done[account]:>9,} {account:<12} {meaning}")
