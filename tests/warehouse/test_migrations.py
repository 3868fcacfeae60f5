"""A warehouse of an older schema version: opened, it has the newest one, all its rows, and goes on exactly once."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from tallystream.errors import WarehouseError
from tallystream.views.loader import load_views
from tallystream.views.plan import quote
from tallystream.warehouse import schema
from tallystream.warehouse.schema import MIGRATIONS, migrate
from tests.oracle.books import compare
from tests.warehouse.stream import Stream
from tests.warehouse.test_exactly_once import HORIZON, LATENESS, books, simple_logs

NEWEST = len(MIGRATIONS)


def older(path: Path, version: int, of: Path) -> None:
    """A file as the code of that version left it, with the rows of `of` as far as it had a place for them."""
    with duckdb.connect(str(path)) as con:
        con.execute("CREATE TABLE main.tallystream_schema (version INTEGER NOT NULL)")
        for number, script in enumerate(MIGRATIONS[:version], 1):
            con.execute(script)
            con.execute("INSERT INTO main.tallystream_schema VALUES (?)", [number])
        plans = load_views().values()
        for plan in plans:
            for statement in plan.state_ddl():
                con.execute(statement)
        con.execute(f"ATTACH '{of}' AS newer (READ_ONLY)")
        for table, columns in tables(con).items():
            listed = ", ".join(map(quote, columns))
            con.execute(f"INSERT INTO {table} ({listed}) SELECT {listed} FROM newer.{table}")
        con.execute("DETACH newer")
        for plan in plans:
            con.execute(plan.view_sql())


def tables(con: duckdb.DuckDBPyConnection) -> dict[str, list[str]]:
    """The tables of the file with their columns, but for the one that tells the version."""
    return dict(
        con.execute(
            "SELECT schema_name || '.\"' || table_name || '\"', list(column_name ORDER BY column_index) FROM duckdb_columns() "
            "JOIN duckdb_tables() USING (database_name, schema_name, table_name) WHERE database_name = current_database() "
            "AND table_name <> 'tallystream_schema' GROUP BY ALL ORDER BY 1"
        ).fetchall()
    )


def rows(con: duckdb.DuckDBPyConnection, columns: dict[str, list[str]]) -> dict[str, list[object]]:
    """All rows of these columns."""
    return {
        table: con.execute(f"SELECT {', '.join(map(quote, names))} FROM {table} ORDER BY ALL").fetchall()
        for table, names in columns.items()
    }


@pytest.mark.parametrize("version", range(1, NEWEST))
def test_every_row_is_kept_and_the_stream_goes_on(tmp_path, version):
    logs = simple_logs(30)
    first = Stream(tmp_path / "first", logs, LATENESS, HORIZON)
    first.start()
    for _ in range(3):
        first.commit([first.read("clicks", 0, 5)])
    first.con.close()
    stream = Stream(tmp_path / "old", logs, LATENESS, HORIZON)
    older(stream.settings.warehouse, version, first.settings.warehouse)
    with duckdb.connect(str(stream.settings.warehouse)) as con:
        known = tables(con)
        before = rows(con, known)
        assert sum(map(len, before.values())) > 20
        assert migrate(con) == NEWEST
        assert con.execute("SELECT version FROM main.tallystream_schema ORDER BY 1").fetchall() == [
            (n,) for n in range(1, NEWEST + 1)
        ]
        assert rows(con, known) == before
        with duckdb.connect() as fresh:
            migrate(fresh)
            assert tables(fresh).items() <= tables(con).items()
        assert migrate(con) == NEWEST
        assert rows(con, known) == before
    stream.start()
    assert stream.position["clicks", 0] == 15
    stream.to_end()
    compare(stream.con, books(logs))
    stream.con.close()


def test_a_newer_file_is_left_as_it_is(tmp_path):
    with duckdb.connect(str(tmp_path / "w")) as con:
        migrate(con)
        con.execute("INSERT INTO main.tallystream_schema VALUES (?)", [NEWEST + 1])
        before = tables(con)
        with pytest.raises(WarehouseError, match=f"has schema version {NEWEST + 1}, this Tallystream knows {NEWEST}"):
            migrate(con)
        assert tables(con) == before


def test_a_migration_that_fails_leaves_the_version_before_it(tmp_path, monkeypatch):
    with duckdb.connect(str(tmp_path / "w")) as con:
        migrate(con)
        before = tables(con)
        monkeypatch.setattr(
            schema, "MIGRATIONS", [*MIGRATIONS, "CREATE TABLE main.half (a INT); SELECT * FROM nowhere"]
        )
        with pytest.raises(WarehouseError, match=f"migration {NEWEST + 1} failed and was rolled back"):
            migrate(con)
        assert tables(con) == before
        assert con.execute("SELECT max(version) FROM main.tallystream_schema").fetchone() == (NEWEST,)
