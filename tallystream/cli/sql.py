"""`tally sql`: one SELECT, or a prompt; live while a stream runs, from the file when none does."""

from __future__ import annotations

import sys
import time
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

from tallystream import settings as environment
from tallystream.errors import QueryError, TallyError
from tallystream.settings import Settings

SHOWN = 1000  # rows of a table for people; json and csv have all
WORDS = {"exit", "quit", r"\q", "exit;", "quit;"}
HELP = r"""End a query with ;  ·  \d lists the relations, \d NAME a relation's columns  ·  \q or Ctrl-D leaves."""


class Format(StrEnum):
    """How rows are printed."""

    table = "table"
    json = "json"
    csv = "csv"


def sql(
    query: Annotated[
        str | None, typer.Argument(help="One SELECT; from standard input, or a prompt, when left out.")
    ] = None,
    format: Annotated[
        Format | None, typer.Option("--format", "-f", help="table for people, json or csv for programs.")
    ] = None,
) -> None:
    """Query the views, the ledger, late_events and dead_letters with DuckDB's SQL; reading only.

    Works while the stream writes, on one committed state a query. Times are UTC; in JSON ISO 8601.

    Example: tally sql "SELECT * FROM revenue_per_minute ORDER BY window_start DESC LIMIT 5"
    """
    s = environment.load()
    if query is None and sys.stdin.isatty():
        prompt(s, format or Format.table)
        return
    answer(s, query if query is not None else sys.stdin.read(), format or Format.table)


def answer(s: Settings, query: str, format: Format) -> None:
    """Runs one query and prints its rows on stdout.

    Raises:
        QueryError: it is wrong or not allowed, with the place.
        WarehouseError: there is nothing to query yet.
    """
    # Imported here: the help of the command needs no DuckDB.
    from tallystream.cli.rows import as_csv, as_json, as_table
    from tallystream.warehouse.read import open_reader

    if not query.strip():
        raise QueryError('the query is empty; try: tally sql "SHOW TABLES"')
    began = time.perf_counter()
    with open_reader(s) as reader:
        names, types, rows = reader.rows(query)
        live = reader.live
    if format is Format.json:
        as_json(names, rows, sys.stdout)
    elif format is Format.csv:
        as_csv(names, rows, sys.stdout)
    else:
        # A pipe has no width: columns cut to 80 characters would lose what they say.
        Console(width=None if sys.stdout.isatty() else 10_000).print(as_table(names, types, rows[:SHOWN]))
        more = f", the first {SHOWN:,} shown" if len(rows) > SHOWN else ""
        took = f"{time.perf_counter() - began:.2f} s, {'live' if live else 'at rest'}"
        Console(stderr=True, highlight=False).print(
            f"[dim]{len(rows):,} row{'' if len(rows) == 1 else 's'}{more}, {took}[/]"
        )


def prompt(s: Settings, format: Format) -> None:
    """Reads queries until the end; a wrong one is told and the next is asked for."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory

    s.root.mkdir(parents=True, exist_ok=True)
    session: PromptSession[str] = PromptSession(history=FileHistory(str(s.root / "sql_history")))
    err = Console(stderr=True, soft_wrap=True, highlight=False)
    err.print(f"[dim]{HELP}[/]", markup=True)
    lines: list[str] = []
    while True:
        asking = True
        try:
            line = session.prompt("   ...> " if lines else "tally> ")
            asking = False
            if not lines and line.strip().lower() in WORDS:
                return
            lines.append(described(line) if not lines else line)
            query = "\n".join(lines).strip()
            if query and not query.endswith(";"):
                continue
            lines = []
            if query:
                answer(s, query, format)
        except KeyboardInterrupt as error:
            # Whenever it comes: between the line and its query too.
            lines = []
            if not asking:
                err.print(f"[yellow]{str(error) or 'the query was cancelled'}[/]")
        except EOFError:
            return
        except TallyError as error:
            err.print("[bold red]error:[/]", str(error).replace("[", r"\["))


def described(line: str) -> str:
    r"""The SQL of the prompt's own words: \d lists the relations, \d NAME the columns of one."""
    if not line.startswith(r"\d"):
        return line
    name = line[2:].strip().rstrip(";")
    return f"DESCRIBE {name};" if name else "SHOW ALL TABLES;"
