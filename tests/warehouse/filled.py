"""A warehouse with something in every table, and a way to hold two against each other."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from pathlib import Path

import duckdb

from tallystream.views.loader import install_macros, load_views
from tallystream.views.plan import ViewPlan
from tallystream.warehouse.schema import migrate

NOW = datetime(2026, 3, 1, 12)
# A view over a view whose name comes later: EXPORT writes views by name.
STACKED = (
    "CREATE VIEW main.a_mart AS SELECT currency, sum(revenue_cents) AS cents FROM main.revenue_per_minute GROUP BY 1"
)


@cache
def plans() -> dict[str, ViewPlan]:
    """The shipped views; reading them takes a while."""
    return load_views()


def fill(path: Path, orders: int = 300) -> duckdb.DuckDBPyConnection:
    """A new warehouse: the shipped views with rows, blobs, huge integers, nulls and the ends of time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    con = duckdb.connect(str(path))
    migrate(con)
    install_macros(con)
    for plan in plans().values():
        for statement in plan.state_ddl():
            con.execute(statement)
        con.execute(plan.view_sql())
        con.execute(
            "INSERT INTO ledger.views VALUES (?, ?, 'live', ?, ?, ?)", [plan.name, plan.version, plan.sql, NOW, NOW]
        )
    con.execute(STACKED)
    con.execute("INSERT INTO ledger.topics VALUES ('orders', 'abc'), ('clicks', NULL)")
    con.execute("INSERT INTO ledger.watermarks VALUES ('orders', ?), ('clicks', NULL)", [NOW])
    con.execute(
        "INSERT INTO ledger.offsets (topic, partition, start_offset, next_offset) SELECT 'clicks', i, 0, 0 FROM range(2) r(i)"
    )
    con.execute("INSERT INTO ledger.offsets VALUES ('orders', 0, 0, 0, ?, 0, 0, 0, 0, 0, 0, 4, 'd1', NULL)", [NOW])
    for number in range(3):
        add(con, orders // 3, number)
    blob = bytes(range(256))
    con.execute(
        "INSERT INTO late_events VALUES ('orders', 0, 5, 'late', 'e', 't', '9999-12-31 23:59:59.999999', '0001-01-01', ?, ?)",
        [b"", blob],
    )
    con.execute("INSERT INTO late_events VALUES ('orders', 0, 6, 'late', NULL, NULL, NULL, NULL, NULL, NULL)")
    con.execute("INSERT INTO dead_letters VALUES ('orders', 0, 7, 'bad', 'it''s {here}', NULL, NULL, ?)", [blob])
    con.execute("INSERT INTO state.judge VALUES ('orders', 0, 0, 5, ?)", [blob * 100])
    return con


def add(con: duckdb.DuckDBPyConnection, rows: int, number: int) -> None:
    """One commit: `rows` more orders, in the view and in the ledger together."""
    revenue, status = plans()["revenue_per_minute"].state, plans()["order_status"].state
    con.execute("BEGIN")
    con.execute(
        f"INSERT INTO {revenue} SELECT md5_number('{number}-' || i), TIMESTAMP '2026-01-01' + to_minutes(i), 'EUR', 1, "
        f"1234567890123456789012345 - i FROM range({rows}) r(i)"
    )
    con.execute(
        f"INSERT INTO {status} (_key, k0, a0, a6) SELECT md5_number('{number}-' || i), CASE WHEN i % 7 > 0 THEN 'o' || i END, "
        f"CASE WHEN i % 5 > 0 THEN struct_pack(k := TIMESTAMP '2026-01-01', id := 'x' || i, v := NULL) END, i FROM range({rows}) r(i)"
    )
    con.execute(
        "UPDATE ledger.offsets SET next_offset = next_offset + ?, consumed = consumed + ?, applied = applied + ? WHERE topic = 'orders'",
        [rows, rows, rows],
    )
    con.execute(
        "INSERT INTO ledger.commits SELECT ?, ?, 'orders', 0, next_offset - ?, next_offset, ?, ?, 0, 0, 0, 0, NULL, [1, NULL], 'v', 0.1, NULL, NULL, NULL "
        "FROM ledger.offsets WHERE topic = 'orders'",
        [number + 1, NOW, rows, rows, rows],
    )
    con.execute("COMMIT")


def contents(con: duckdb.DuckDBPyConnection) -> dict[str, object]:
    """All tables' and views' rows, and all definitions, as plain values."""
    names = con.execute(
        "SELECT schema_name, table_name FROM duckdb_tables() WHERE NOT internal "
        "UNION ALL SELECT schema_name, view_name FROM duckdb_views() WHERE NOT internal ORDER BY ALL"
    ).fetchall()
    found: dict[str, object] = {}
    for schema, name in names:
        result = con.execute(f'SELECT * FROM "{schema}"."{name}"')
        found[f"{schema}.{name}"] = (
            [(d[0], str(d[1])) for d in result.description],
            sorted(map(repr, result.fetchall())),
        )
    for what in (
        "SELECT schema_name, table_name, sql FROM duckdb_tables() WHERE NOT internal ORDER BY ALL",
        "SELECT schema_name, view_name, sql FROM duckdb_views() WHERE NOT internal ORDER BY ALL",
        "SELECT function_name, parameters FROM duckdb_functions() WHERE NOT internal ORDER BY ALL",
        "SELECT schema_name, table_name, constraint_type, constraint_column_names FROM duckdb_constraints() ORDER BY ALL",
    ):
        # DuckDB puts quotes around some names the first time, and not the second.
        found[what] = [" ".join(map(str, row)).replace('"', "") for row in con.execute(what).fetchall()]
    return found
