"""How view files are parsed and written: sqlglot's DuckDB, with `session` as a name."""

from __future__ import annotations

from functools import cache

import duckdb
from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.tokens import TokenType  # type: ignore[attr-defined]


class ViewDialect(DuckDB):
    """DuckDB, where `session` is a name: sqlglot reads it as a keyword."""

    class Parser(DuckDB.Parser):  # type: ignore[misc, valid-type]
        """Knows `session(…)` as a function, and leaves alone what it would write as a call of another function."""

        FUNC_TOKENS = DuckDB.Parser.FUNC_TOKENS | {TokenType.SESSION}
        FUNCTIONS = {k: v for k, v in DuckDB.Parser.FUNCTIONS.items() if k not in ("LOG2", "LOG10")}  # noqa: RUF012


# Of this DuckDB: `~` matches the whole text in 1.5, and anywhere in the text in 2.0.
DIALECT = ViewDialect(version=".".join(duckdb.__version__.split(".")[:2]))


def to_sql(node: exp.Expr) -> str:
    """The node as DuckDB SQL, without comments."""
    return node.sql(DIALECT, comments=False)


# These fail for no value.
SAFE = (exp.And, exp.Or, exp.Case, exp.If, exp.Coalesce, exp.Nullif, exp.Lower, exp.Upper, exp.TryCast)
ARITHMETIC = (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.IntDiv, exp.Mod, exp.Pow, exp.Neg, exp.DPipe)


def safe_sql(node: exp.Expr) -> str:
    """The node as SQL that is NULL where it cannot be computed: an overflow in one event must not stop the stream."""

    def cast(n: exp.Expr) -> exp.Expr:
        return exp.TryCast(**n.copy().args) if type(n) is exp.Cast else n

    tried = node.copy().transform(cast)
    risky = any(
        isinstance(n, ARITHMETIC) or (isinstance(n, exp.Func) and not isinstance(n, SAFE)) for n in tried.walk()
    )
    return f"TRY({to_sql(tried)})" if risky else to_sql(tried)


@cache
def functions(condition: str) -> frozenset[str]:
    """DuckDB's functions for which `condition` over duckdb_functions() holds, in small letters."""
    with duckdb.connect() as con:
        rows = con.execute(f"SELECT DISTINCT lower(function_name) FROM duckdb_functions() WHERE {condition}").fetchall()
    return frozenset(row[0] for row in rows)
