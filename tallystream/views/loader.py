"""Loads the folder of view files into plans; each is bound by DuckDB before anything trusts it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import duckdb

from tallystream.errors import ViewError
from tallystream.settings import PROJECT
from tallystream.views.plan import ViewPlan, batch_sql, describe, partial_sql, parts_of
from tallystream.views.read import Shape, read

VIEWS = PROJECT / "sql" / "views"
MACROS = PROJECT / "sql" / "macros.sql"
NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
TAKEN = {"orders", "clicks", "late_events", "dead_letters", "tallystream_schema", "tumble", "hop", "session"}
FLOATS = ("FLOAT", "DOUBLE")
# The topics as relations of SQL; the types are those of the contracts.
RELATIONS = {
    "orders": "event_id VARCHAR, event_type VARCHAR, event_time TIMESTAMP, order_id VARCHAR, customer_id VARCHAR, "
    "items STRUCT(product_id VARCHAR, quantity BIGINT, unit_price_cents BIGINT)[], total_cents BIGINT, currency VARCHAR",
    "clicks": "event_id VARCHAR, event_type VARCHAR, event_time TIMESTAMP, user_id VARCHAR, session_id VARCHAR, product_id VARCHAR, "
    "category VARCHAR, brand VARCHAR, url VARCHAR, price_cents BIGINT",
}


def install_macros(con: duckdb.DuckDBPyConnection) -> None:
    """Defines tumble, hop and session."""
    con.execute(MACROS.read_text())


def create_relations(con: duckdb.DuckDBPyConnection) -> None:
    """Empty tables `orders` and `clicks` with the contracts' columns."""
    for topic, columns in RELATIONS.items():
        con.execute(f"CREATE TABLE {topic} ({columns})")


@cache
def _scratch() -> duckdb.DuckDBPyConnection:
    con = duckdb.connect(config={"threads": 1, "autoinstall_known_extensions": "false"})
    install_macros(con)
    create_relations(con)
    return con


def load_views(folder: Path | None = None) -> dict[str, ViewPlan]:
    """All view files of a folder, by name.

    Raises:
        ViewError: one of them cannot be kept; the message names file, line and construct.
    """
    folder = folder or VIEWS
    if not folder.is_dir():
        raise ViewError(f"{folder} is no folder of view files")
    return {path.stem: load_view(path) for path in sorted(folder.glob("*.sql"))}


def load_view(path: Path) -> ViewPlan:
    """One view file as a plan.

    Raises:
        ViewError: it cannot be kept; the message names file, line and construct.
    """
    name = path.stem
    if not NAME.fullmatch(name) or name in TAKEN:
        raise ViewError(f"{path.name}: the file's name is the view's: small letters, digits and _, and none of {', '.join(sorted(TAKEN))}")
    try:
        sql = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ViewError(f"{path.name}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    shape = read(path, sql)
    parts = [part for i, a in enumerate(shape.aggregates) for part in parts_of(i, a)]
    con = _scratch()
    try:
        con.execute(f"EXPLAIN {sql.strip().rstrip(';')}")
        types = describe(con, batch_sql(shape))
        state = describe(con, partial_sql(shape, parts, shape.topic))
    except duckdb.Error as error:
        raise ViewError(f"{path.name}:{_line(str(error), sql)}: {_first(error)}; the columns of {shape.topic} are {_columns(shape)}") from None
    for i, a in enumerate(shape.aggregates):
        if a.kind in ("sum", "avg") and state.get(f"a{i}", state.get(f"a{i}s")) in FLOATS:
            raise ViewError(
                f"{path.name}: {a.kind}({a.args[0]}): a sum of floating numbers depends on the order of the events; "
                "sum integers, such as cents, and divide when you query"
            )
    return ViewPlan(name, path, sql, shape, types, state)


def _columns(shape: Shape) -> str:
    return ", ".join(part.split()[0] for part in re.split(r", (?![^(]*\))", RELATIONS[shape.topic]))


def _first(error: duckdb.Error) -> str:
    return str(error).split("\n\nLINE")[0].replace("\n", " ")


def _line(message: str, sql: str) -> int:
    found = re.search(r"LINE (\d+):", message)
    named = re.search(r'"(\w+)"', message)
    if named:
        for number, line in enumerate(sql.splitlines(), 1):
            if re.search(rf"\b{named[1]}\b", line.split("--")[0]):
                return number
    return int(found[1]) if found else 1
