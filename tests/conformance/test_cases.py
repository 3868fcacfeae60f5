"""All cases with known answers, as written, through the engine; and our macros beside those of the cases."""

from __future__ import annotations

import duckdb
import pytest

from tallystream.views.loader import create_relations, install_macros
from tests.conformance.cases import CASES, FOLDER, parse_time, run, sorted_rows, typed


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("partitions", "batch"), [(1, 1), (1, 4), (3, 2)])
def test_the_engine_gives_the_known_answer(name, partitions, batch, tmp_path):
    case = CASES[name]
    if partitions > 1 and "late" in case["needs"]:
        partitions = 1
    stream = run(
        case["view"], case["events"], case["lateness_seconds"], tmp_path, partitions, batch, restart=batch == 1
    )
    rows = sorted_rows(
        stream.con, "SELECT * EXCLUDE (is_final) FROM main.v" if stream.plans["v"].window else "FROM main.v"
    )
    assert typed(rows) == typed(case["expected"])
    topics = ", ".join(f"'{t}'" for t in case["events"])
    found = stream.con.execute(
        f"SELECT sum(applied), sum(late), sum(duplicate), sum(dead) FROM ledger.offsets WHERE topic IN ({topics})"
    )
    assert dict(zip(("applied", "late", "duplicate", "dead"), found.fetchone(), strict=True)) == case["accounts"]
    stream.con.close()


def _judged(name):
    """The applied events of a case, where nothing is late: each id once."""
    return {
        t: list({e["event_id"]: e for e in reversed(events)}.values()) for t, events in CASES[name]["events"].items()
    }


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if "late" not in c["needs"]])
def test_our_macros_give_the_known_answer_in_plain_duckdb(name):
    con = duckdb.connect()
    create_relations(con)
    install_macros(con)
    for topic, events in _judged(name).items():
        for e in events:
            values = [parse_time(v) if k == "event_time" else v for k, v in e.items()]
            con.execute(f"INSERT INTO {topic} VALUES ({', '.join('?' * len(values))})", values)
    assert typed(sorted_rows(con, CASES[name]["view"])) == typed(CASES[name]["expected"])


def test_the_macros_do_what_those_of_the_cases_do():
    """On random times, windows before 1970 and slides that divide nothing among them."""
    ours, theirs = duckdb.connect(), duckdb.connect()
    install_macros(ours)
    theirs.execute((FOLDER / "macros.sql").read_text())
    for con in (ours, theirs):
        con.execute(
            "CREATE TABLE e AS SELECT TIMESTAMP '1970-01-01' + to_microseconds(CAST(hash(i) % 7_200_000_000 AS BIGINT) - 3_600_000_000) "
            "AS event_time, i % 7 AS key FROM range(500) r(i)"
        )
    for call in (
        "tumble(e, INTERVAL 7 SECONDS)", "tumble(e, INTERVAL 7 DAYS)", "hop(e, INTERVAL 3 SECONDS, INTERVAL 10 SECONDS)",
        "hop(e, INTERVAL 10 SECONDS, INTERVAL 3 SECONDS)", "session(e, key, INTERVAL 90 SECONDS)",
    ):  # fmt: skip
        query = f"SELECT event_time, key, window_start, window_end FROM {call} ORDER BY ALL"
        assert ours.execute(query).fetchall() == theirs.execute(query).fetchall(), call
