"""How view files are parsed and written: sqlglot's DuckDB, with `session` as a name."""

from __future__ import annotations

from functools import cache

import duckdb
from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.tokens import TokenType  # type: ignore[attr-defined]

ORIGIN = "TIMESTAMP '1970-01-01'"


class ViewDialect(DuckDB):
    """DuckDB, where `session` is a name: sqlglot reads it as a keyword."""

    class Parser(DuckDB.Parser):  # type: ignore[misc, valid-type]
        """Knows `session(…)` as a function."""

        FUNC_TOKENS = DuckDB.Parser.FUNC_TOKENS | {TokenType.SESSION}


def to_sql(node: exp.Expr) -> str:
    """The node as DuckDB SQL, without comments."""
    return node.sql(ViewDialect, comments=False)


def quote(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def micros(n: int) -> str:
    """An interval of `n` microseconds."""
    return f"to_microseconds({n})"


@cache
def functions(condition: str) -> frozenset[str]:
    """DuckDB's functions for which `condition` over duckdb_functions() holds, in small letters."""
    with duckdb.connect() as con:
        rows = con.execute(f"SELECT DISTINCT lower(function_name) FROM duckdb_functions() WHERE {condition}").fetchall()
    return frozenset(row[0] for row in rows)
