"""What `tally sql` prints: times in UTC, exact integers, nothing that a terminal obeys."""

from __future__ import annotations

import csv
import io
import json

import duckdb
import pytest
from rich.console import Console
from typer.testing import CliRunner

from tallystream.cli.main import app
from tallystream.cli.rows import as_csv, as_json, as_table
from tallystream.settings import Settings
from tallystream.warehouse.schema import migrate

QUERY = r"""
    SELECT TIMESTAMP '2026-01-02 03:04:05.6' AS t, DATE '2026-01-02' AS d, 170141183460469231731687303715884105727::HUGEINT AS h,
           'NaN'::DOUBLE AS nan, 0.5 AS half, 2::DECIMAL(9, 2) AS two, '\xFF\x00'::BLOB AS b, [1, NULL] AS l,
           {'at': TIMESTAMP '9999-12-31 23:59:59.999999'} AS s, NULL AS n, true AS yes, E'a\x1b[31m"é' AS text
"""
JSON = {
    "t": "2026-01-02T03:04:05.600000Z",
    "d": "2026-01-02",
    "h": 170141183460469231731687303715884105727,
    "nan": None,
    "half": 0.5,
    "two": 2,
    "b": "ff00",
    "l": [1, None],
    "s": {"at": "9999-12-31T23:59:59.999999Z"},
    "n": None,
    "yes": True,
    "text": 'a\x1b[31m"é',
}


def result():
    found = duckdb.execute(QUERY)
    return [d[0] for d in found.description], [d[1] for d in found.description], found.fetchall()


def test_json_is_exact_and_in_utc():
    names, _, rows = result()
    out = io.StringIO()
    as_json(names, rows * 2, out)
    assert json.loads(out.getvalue()) == [JSON, JSON]
    empty = io.StringIO()
    as_json(names, [], empty)
    assert json.loads(empty.getvalue()) == []


def test_csv_reads_back():
    names, _, rows = result()
    out = io.StringIO()
    as_csv(names, rows, out)
    (row,) = csv.DictReader(io.StringIO(out.getvalue()))
    assert row["t"] == JSON["t"]
    assert row["n"] == "" and row["h"] == str(JSON["h"]) and row["text"] == JSON["text"]
    assert json.loads(row["l"]) == [1, None]


def test_a_table_sends_no_escape_sequence_of_an_event_to_the_terminal():
    names, types, rows = result()
    out = io.StringIO()
    Console(file=out, width=1000, force_terminal=False).print(as_table(names, types, rows))
    assert "\x1b" not in out.getvalue()
    assert r"a\x1b[31m" in out.getvalue()


@pytest.fixture
def warehouse(home):
    settings = Settings()
    settings.root.mkdir(parents=True)
    with duckdb.connect(str(settings.warehouse)) as con:
        migrate(con)
    return settings


@pytest.mark.parametrize(
    ("arguments", "typed", "printed"),
    [
        (["--format", "csv", "SELECT 1 AS a, 'x,y' AS b"], None, 'a,b\n1,"x,y"\n'),
        (["--format", "json", "SELECT 1 AS a"], None, '[\n {"a": 1}\n]\n'),
        (["--format", "csv"], "SELECT 2 AS a", "a\n2\n"),
        (["--format", "csv", "SELECT count(*) AS n FROM ledger.offsets"], None, "n\n0\n"),
    ],
)
def test_rows_go_to_stdout_alone(warehouse, arguments, typed, printed):
    done = CliRunner().invoke(app, ["sql", *arguments], input=typed)
    assert (done.exit_code, done.stdout) == (0, printed)


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("SELECT 1; DROP TABLE late_events", "2 statements"),
        ("DELETE FROM late_events", "DELETE is refused"),
        ("SELECT * FROM nothing", "nothing does not exist"),
        ("SELECT 1,\n  nothing FROM late_events", "LINE 2"),
        ("  ", "the query is empty"),
    ],
)
def test_a_wrong_query_is_told_with_its_place(warehouse, query, told):
    done = CliRunner().invoke(app, ["sql", query])
    assert done.exit_code != 0
    assert told in str(done.exception)


def test_without_a_warehouse_it_says_what_makes_one(home):
    done = CliRunner().invoke(app, ["sql", "SELECT 1"])
    assert "`tally run` makes it" in str(done.exception)
