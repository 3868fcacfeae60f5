"""The views' own SQL, run by DuckDB over all accepted events at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import duckdb

from tallystream.database import connect
from tallystream.views.loader import create_relations, install_macros
from tallystream.views.plan import ViewPlan, quote

Events = Mapping[str, list[dict[str, Any]]]


def database(events: Events) -> duckdb.DuckDBPyConnection:
    """The accepted events as tables, with all that a view may say over them."""
    con = connect()
    create_relations(con)
    install_macros(con)
    for topic, listed in events.items():
        for e in listed:
            con.execute(f"INSERT INTO {topic} VALUES ({', '.join('?' * len(e))})", list(e.values()))
    return con


def compare_with_batch(con: duckdb.DuckDBPyConnection, plans: Mapping[str, ViewPlan], events: Events) -> None:
    """Asserts that every view's rows are those of its file's own query; of events without heartbeats, by topic.

    Where two events have one time, plain SQL may choose either as the first or last: then the query with our rules
    for ties is asked alone.
    """
    whole = database(events)
    times = [e["event_time"] for listed in events.values() for e in listed]
    ties = len(set(times)) < len(times)
    for name, plan in plans.items():
        columns = ", ".join(map(quote, plan.types))
        kept = sorted(con.execute(f"SELECT {columns} FROM main.{quote(name)}").fetchall(), key=repr)
        for sql in [plan.batch_sql()] + ([] if ties else [plan.sql]):
            told = sorted(whole.execute(sql).fetchall(), key=repr)
            assert kept == told, f"{name}: {first_difference(kept, told)}"
    whole.close()


def first_difference(kept: list[Any], told: list[Any]) -> str:
    """A row that one has and the other has not."""
    more, less = [r for r in kept if r not in told], [r for r in told if r not in kept]
    return f"the view alone has {more[:1]}, the batch alone {less[:1]}"
