"""Reads a view file: one SELECT of a shape that can be kept incrementally, or a refusal with advice."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import duckdb
import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from tallystream.errors import ViewError
from tallystream.views.dialect import DIALECT, functions, to_sql
from tallystream.views.read_grouped import read_grouped
from tallystream.views.read_join import read_join
from tallystream.views.refuse import Refusal
from tallystream.views.relations import relations
from tallystream.views.shape import WINDOW_COLUMNS, Shape

__all__ = ["read"]

CLAUSES = {
    "with_": (
        "WITH",
        "write the query without a common table expression, or put it into an analyst query over the view",
    ),
    "laterals": ("LATERAL", "read FROM order_items, which has the items as rows, or unnest when you query"),
    "qualify": ("QUALIFY", "keep all rows and rank when you query"),
    "windows": ("WINDOW", "keep all rows and rank when you query"),
    "order": ("ORDER BY", "rows of a view have no order; sort when you query"),
    "limit": ("LIMIT", "keep all rows and limit when you query"),
    "offset": ("OFFSET", "keep all rows and limit when you query"),
    "distinct": ("DISTINCT", "group by the columns instead"),
    "sample": ("SAMPLE", "a sample is another one each time"),
}
# Not volatile to DuckDB's catalog, but another answer on another day or machine.
VOLATILE = {"current_timestamp", "localtimestamp", "current_time", "localtime", "current_date", "current_user", "getenv"} | {
    "current_setting", "getvariable", "today", "now", "get_current_timestamp", "get_current_time", "age", "version",
}  # fmt: skip


def read(path: Path, sql: str) -> Shape:
    """The shape of a view file.

    Raises:
        ViewError: file, line, construct, and what to do.
    """
    refuse = Refusal(path, sql)
    select = _one_select(path, sql, refuse)
    _plain_names(select)
    _refuse_volatile(select, refuse)
    for arg, (name, advice) in CLAUSES.items():
        if select.args.get(arg):
            raise refuse(name, "cannot be kept incrementally", advice)
    _refuse_inside(select, refuse)
    lines = re.split(r"\bSELECT\b", sql, maxsplit=1)[0].splitlines()
    description = "\n".join(line.lstrip("- ").rstrip() for line in lines if line.startswith("--"))
    canonical = select.sql(DIALECT, comments=False, normalize=True)
    reader = read_join if select.args.get("joins") else read_grouped
    return reader(select, refuse, description, canonical)


def _one_select(path: Path, sql: str, refuse: Refusal) -> exp.Select:
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        at = re.search(r"LINE (\d+):", str(error))
        first = str(error).split("\n")[0]
        raise ViewError(
            f"{path.name}:{at[1] if at else 1}: {first}; it must be one SELECT that DuckDB can read"
        ) from None
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        found = (
            "nothing"
            if not statements
            else f"{len(statements)} statements"
            if len(statements) > 1
            else statements[0].type.name
        )
        raise ViewError(f"{path.name}:1: {found}: a view is exactly one SELECT; put other statements elsewhere")
    try:
        # What stands behind the last semicolon is a comment: DuckDB has counted the statements.
        parsed = next(s for s in sqlglot.parse(sql, dialect=DIALECT) if s is not None)
    except SqlglotError as error:
        raise ViewError(f"{path.name}:1: {str(error).splitlines()[0]}; write the query in plain SELECT form") from None
    parsed = parsed.unnest() if isinstance(parsed, exp.Subquery) else parsed
    if isinstance(parsed, exp.SetOperation):
        name = "UNION" if isinstance(parsed, exp.Union) else parsed.key.upper()
        raise refuse(name, "cannot be kept incrementally", "make one view for each part")
    if not isinstance(parsed, exp.Select) or not parsed.args.get("from_"):
        raise ViewError(
            f"{path.name}:1: {parsed.key.upper()}: a view reads FROM a topic, a relation over it or a window; write FROM"
        )
    return parsed


def _plain_names(select: exp.Select) -> None:
    """Columns as the relations have them: `"user_id"` and `USER_ID` are user_id."""
    known = {*WINDOW_COLUMNS, *(c for r in relations().values() for c in r.columns)}
    for column in select.find_all(exp.Column):
        if column.name.lower() in known:
            column.set("this", exp.to_identifier(column.name.lower()))


def _refuse_volatile(select: exp.Select, refuse: Refusal) -> None:
    volatile = functions("stability <> 'CONSISTENT'") | VOLATILE
    for name in _names(select):
        if name.lower() in volatile:
            raise refuse(
                name, "gives another answer each time it is asked", "use a column of the event, such as event_time"
            )


def _names(select: exp.Select) -> Iterator[str]:
    for node in select.find_all(exp.Func):
        yield node.name if isinstance(node, exp.Anonymous) else node.sql_name()
        # As DuckDB calls it: what sqlglot knows as rand is random there.
        yield re.split(r"\W", to_sql(node), maxsplit=1)[0]
    for column in select.find_all(exp.Column):
        if not column.table:
            yield column.name


def _refuse_inside(select: exp.Select, refuse: Refusal) -> None:
    if select.find(exp.Window):
        raise refuse("OVER", "window functions need all rows at once", "rank or accumulate when you query the view")
    inner = next((n for n in select.find_all(exp.Select) if n is not select), None)
    if inner is not None or select.find(exp.Subquery, exp.Exists):
        construct = "EXISTS" if select.find(exp.Exists) else "(SELECT"
        raise refuse(
            construct, "a subquery cannot be kept incrementally", "make it a view of its own and join when you query"
        )
    if select.find(exp.Parameter, exp.Placeholder):
        raise refuse("?", "a view has no parameters", "write the value")
    for star in select.find_all(exp.Star):
        if not isinstance(star.parent, exp.Count):
            raise refuse("*", "names no columns", "list the columns and aggregates")
    if quantified := select.find(exp.Any, exp.All):
        raise refuse(quantified.key.upper(), "is a subquery to DuckDB", "write x IN (…) or list_contains(list, x)")
    if select.find(exp.Try):
        raise refuse("TRY", "is put around every expression already, and not twice", "leave it out, or use TRY_CAST")
    if select.find(exp.Collate):
        raise refuse("COLLATE", "groups texts that differ, and which of them is shown is open", "use lower(text)")
    if select.find(exp.Unnest, exp.Explode):
        raise refuse("unnest", "makes several rows of one", "read FROM order_items, which has the items as rows")
