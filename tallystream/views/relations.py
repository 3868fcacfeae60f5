"""What a view can read: the topics, and the relations that sql/relations.sql makes of them."""

from __future__ import annotations

from functools import cache

import duckdb
import sqlglot
from sqlglot import exp

from tallystream.database import connect
from tallystream.settings import PROJECT
from tallystream.views.dialect import DIALECT, to_sql
from tallystream.views.relation import TOPIC_COLUMNS, Relation

MACROS = PROJECT / "sql" / "macros.sql"
RELATIONS_SQL = PROJECT / "sql" / "relations.sql"


def install_macros(con: duckdb.DuckDBPyConnection) -> None:
    """Defines tumble, hop and session."""
    con.execute(MACROS.read_text())


def create_relations(con: duckdb.DuckDBPyConnection) -> None:
    """Empty tables `orders` and `clicks` with the contracts' columns, and the relations over them."""
    for topic, columns in TOPIC_COLUMNS.items():
        con.execute(f"CREATE TABLE {topic} ({columns})")
    con.execute(RELATIONS_SQL.read_text())


@cache
def scratch() -> duckdb.DuckDBPyConnection:
    """A database without events, in which view files are bound."""
    con = connect(threads=1)
    install_macros(con)
    create_relations(con)
    # What plans need beside their own tables.
    con.execute("CREATE SCHEMA state; CREATE SCHEMA ledger")
    con.execute("CREATE TABLE ledger.watermarks (topic VARCHAR, watermark TIMESTAMP)")
    return con


@cache
def relations() -> dict[str, Relation]:
    """All relations by name, the topics first."""
    sources: dict[str, dict[str, str]] = {topic: {topic: f"SELECT * FROM {topic}"} for topic in TOPIC_COLUMNS}
    for statement in sqlglot.parse(RELATIONS_SQL.read_text(), dialect=DIALECT):
        assert isinstance(statement, exp.Create), "sql/relations.sql holds CREATE VIEW statements only"
        sources[statement.this.name] = dict(_branch(b) for b in _branches(statement.expression))
    con = scratch()
    return {name: Relation(name, describe(con, f"FROM {name}"), found) for name, found in sources.items()}


def describe(con: duckdb.DuckDBPyConnection, sql: str) -> dict[str, str]:
    """Column -> type of a query."""
    return {row[0]: row[1] for row in con.execute(f"DESCRIBE {sql}").fetchall()}


def _branches(query: exp.Expr) -> list[exp.Expr]:
    if isinstance(query, exp.Union):
        return [*_branches(query.this), *_branches(query.expression)]
    return [query]


def _branch(query: exp.Expr) -> tuple[str, str]:
    table = next(iter(query.find_all(exp.Table)))
    topic = table.name
    table.this.replace(exp.to_identifier("{topic}"))
    return topic, to_sql(query).replace('"{topic}"', "{topic}")
