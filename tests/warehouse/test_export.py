"""Files of a database: every type, every kind of definition, in whatever order it was made."""

from __future__ import annotations

import duckdb
import pytest

from tallystream.warehouse import export
from tallystream.warehouse.snapshot import tables_of

VALUES = {
    "UHUGEINT": ["0", "340282366920938463463374607431768211455", "290293690697406552751975134056109100495"],
    "HUGEINT": ["-170141183460469231731687303715884105727", "1234567890123456789012345"],
    "STRUCT(k HUGEINT, id VARCHAR, v UHUGEINT)": ["{'k': 1234567890123456789012345, 'id': 'x', 'v': 7}"],
    "UHUGEINT[]": ["[18446744073709551617, NULL]"],
    "INTERVAL": ["INTERVAL '14 months 3 days 1.000001 seconds'"],
    "BLOB": ["'\\x00\\xFF'::BLOB", "''::BLOB"],
    "BIT": ["'10110'::BIT"],
    "TIMESTAMP": ["TIMESTAMP '9999-12-31 23:59:59.999999'", "TIMESTAMP '0001-01-01'"],
    "TIMESTAMP WITH TIME ZONE": ["TIMESTAMPTZ '2026-01-01 00:00:00.000001+05'"],
    "TIMESTAMP_NS": ["TIMESTAMP_NS '2026-01-01 00:00:00.123456789'"],
    "DECIMAL(38,5)": ["123456789012345678901234567890123.12345"],
    "DOUBLE": ["'nan'::DOUBLE", "'-inf'::DOUBLE", "0.1::DOUBLE"],
    "UUID": ["'0599e656-3e52-4822-9330-0e24b139da22'::UUID"],
    "MAP(VARCHAR, HUGEINT)": ["MAP {'a': 1234567890123456789012345}"],
    "BOOLEAN": ["true"],
    "TIME": ["TIME '12:00:00.000001'"],
    "DATE": ["DATE '0001-01-01'"],
    "UBIGINT": ["18446744073709551615"],
    "VARCHAR": ["''", "'it''s {here}/x'", "'\u00e9\u4e16'"],
}


def copied(con, folder):
    con.execute("BEGIN TRANSACTION READ ONLY")
    export.write(con, folder)
    con.execute("ROLLBACK")
    back = duckdb.connect()
    export.define(back, (folder / "schema.sql").read_text())
    export.load(back, folder)
    assert tables_of(back) == tables_of(con)
    return back


@pytest.mark.parametrize("kind", VALUES)
def test_every_type_comes_back_as_it_was(tmp_path, kind):
    con = duckdb.connect()
    con.execute(f"CREATE TABLE t (x {kind})")
    for value in ("NULL", *VALUES[kind]):
        con.execute(f"INSERT INTO t VALUES ({value})")
    back = copied(con, tmp_path / "out")
    query = "SELECT typeof(x), x::VARCHAR FROM t ORDER BY ALL"
    assert back.execute(query).fetchall() == con.execute(query).fetchall()


def test_definitions_come_back_in_whatever_order_they_were_made(tmp_path):
    con = duckdb.connect()
    con.execute("""
        CREATE SCHEMA "odd one";
        CREATE SEQUENCE numbers START 5;
        CREATE TABLE "odd one"."a ""t b" ("k ey" UHUGEINT PRIMARY KEY, n INTEGER DEFAULT 3 NOT NULL, CHECK (n > 0));
        CREATE TABLE "odd one"."a_""t_b" AS SELECT 1 AS x;
        CREATE INDEX by_n ON "odd one"."a ""t b" (n);
        CREATE MACRO plus(a, "b c") AS a + "b c";
        CREATE MACRO rows_of(t) AS TABLE SELECT * FROM query_table(t);
        CREATE VIEW z AS SELECT plus(n, 1) AS m FROM "odd one"."a ""t b";
        CREATE VIEW a AS SELECT * FROM z;
        CREATE OR REPLACE VIEW z AS SELECT plus(n, 2) AS m FROM "odd one"."a ""t b";
        INSERT INTO "odd one"."a ""t b" VALUES (340282366920938463463374607431768211455, 4);
        CREATE TEMP TABLE gone AS SELECT 1;
    """)
    back = copied(con, tmp_path / "it's a folder")
    assert back.execute("SELECT * FROM a").fetchall() == [(6,)]
    assert back.execute("SELECT nextval('numbers')").fetchone() == (5,)
    assert back.execute("SELECT index_name FROM duckdb_indexes()").fetchall() == [("by_n",)]
    with pytest.raises(duckdb.ConstraintException):
        back.execute('INSERT INTO "odd one"."a ""t b" VALUES (340282366920938463463374607431768211455, 4)')
    with pytest.raises(duckdb.ConstraintException):
        back.execute('INSERT INTO "odd one"."a ""t b" VALUES (1, -4)')


def test_a_definition_that_cannot_be_is_raised(tmp_path):
    with pytest.raises(duckdb.CatalogException, match="nowhere"):
        export.define(duckdb.connect(), "CREATE VIEW v AS SELECT * FROM nowhere; CREATE TABLE t (x INTEGER);")
