"""A database as files: Parquet for the rows, two scripts for the rest.

Instead of EXPORT DATABASE, which casts UHUGEINT, the type of every view's key, to text: 55 µs a value in DuckDB 1.5.5,
a minute for a million rows. Halves of 64 bits take 0.1 µs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import duckdb

# Stands for the folder in load.sql: the paths of one machine mean nothing on another.
HERE = "{here}"
HALF = "18446744073709551615::UHUGEINT"
# Types that Parquet cannot hold, or not without loss: HUGEINT becomes DOUBLE, INTERVAL loses microseconds.
AS_TEXT = re.compile(r"\b(UHUGEINT|HUGEINT|INTERVAL|BIT)\b")
IN_IT = "database_name = current_database()"
OURS = f"{IN_IT} AND NOT internal"
DEFINITIONS = [
    f"SELECT 'CREATE SCHEMA ' || format('\"{{}}\"', schema_name) FROM duckdb_schemas() WHERE {OURS} AND schema_name <> 'main'",
    f"SELECT sql FROM duckdb_sequences() WHERE {IN_IT} AND NOT temporary ORDER BY sequence_oid",
    f"SELECT sql FROM duckdb_tables() WHERE {OURS} AND NOT temporary ORDER BY table_oid",
    'SELECT format(\'CREATE MACRO "{}"."{}"({}) AS {}{}\', schema_name, function_name, '
    "array_to_string(list_transform(parameters, lambda p: format('\"{}\"', p)), ', '), "
    "CASE function_type WHEN 'table_macro' THEN 'TABLE ' ELSE '' END, macro_definition) "
    f"FROM duckdb_functions() WHERE {OURS} AND function_type IN ('macro', 'table_macro') ORDER BY function_oid",
    f"SELECT sql FROM duckdb_views() WHERE {OURS} AND NOT temporary ORDER BY view_oid",
    f"SELECT sql FROM duckdb_indexes() WHERE {OURS} AND sql IS NOT NULL ORDER BY index_oid".replace(
        " AND NOT internal", ""
    ),
]


def quote(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def tables(con: duckdb.DuckDBPyConnection) -> list[tuple[str, str]]:
    """(schema, name) of every table that lasts."""
    query = f"SELECT schema_name, table_name FROM duckdb_tables() WHERE {OURS} AND NOT temporary ORDER BY ALL"
    return con.execute(query).fetchall()


def write(con: duckdb.DuckDBPyConnection, folder: Path) -> None:
    """Writes all tables, schema.sql and load.sql into a new folder; the caller holds the transaction.

    schema.sql is in the order of creation, which may not be that of dependence: `define` minds it.
    """
    folder.mkdir(parents=True)
    load = []
    for number, (schema, name) in enumerate(tables(con)):
        plain = re.sub("[^A-Za-z0-9_]", "_", f"{schema}_{name}")
        file = f"{plain}.parquet"
        if (folder / file).exists():
            file = f"{plain}.{number}.parquet"
        columns = list(_columns(con, schema, name))
        out, back = ", ".join(c for c, _ in columns), ", ".join(c for _, c in columns)
        place = str(folder / file).replace("'", "''")
        con.execute(
            f"COPY (SELECT {out} FROM {quote(schema)}.{quote(name)}) TO '{place}' (FORMAT parquet, COMPRESSION zstd)"
        )
        load.append(f"INSERT INTO {quote(schema)}.{quote(name)} SELECT {back} FROM read_parquet('{HERE}/{file}');\n")
    (folder / "load.sql").write_text("".join(load))
    script = [row[0].rstrip().removesuffix(";") for query in DEFINITIONS for row in con.execute(query).fetchall()]
    (folder / "schema.sql").write_text("".join(f"{statement};\n" for statement in script))


def _columns(con: duckdb.DuckDBPyConnection, schema: str, name: str) -> Iterator[tuple[str, str]]:
    """For each column what is written of it, and how it is read back."""
    query = (
        "SELECT column_name, data_type FROM duckdb_columns() WHERE database_name = current_database() "
        "AND schema_name = ? AND table_name = ? ORDER BY column_index"
    )
    for column, kind in con.execute(query, [schema, name]).fetchall():
        c = quote(column)
        if kind == "UHUGEINT":
            yield (
                f"struct_pack(high := ({c} >> 64)::UBIGINT, low := ({c} & {HALF})::UBIGINT) AS {c}",
                f"(({c}).high::UHUGEINT << 64) | ({c}).low::UHUGEINT",
            )
        else:
            text = AS_TEXT.sub("VARCHAR", kind)
            yield (c if text == kind else f"CAST({c} AS {text}) AS {c}"), f"CAST({c} AS {kind})"


def define(con: duckdb.DuckDBPyConnection, script: str) -> None:
    """Runs schema.sql; what needs something that is not there yet is tried again after the rest."""
    waiting = [s.query for s in con.extract_statements(script)]
    while waiting:
        left: list[str] = []
        for statement in waiting:
            try:
                con.execute(statement)
            except duckdb.CatalogException:
                left.append(statement)
        if len(left) == len(waiting):
            con.execute(left[0])
        waiting = left


def load(con: duckdb.DuckDBPyConnection, folder: Path) -> None:
    """Runs load.sql over the files of a folder, in one transaction."""
    place = str(folder).replace("'", "''")
    con.execute("BEGIN")
    con.execute((folder / "load.sql").read_text().replace(f"'{HERE}/", f"'{place}/"))
    con.execute("COMMIT")
