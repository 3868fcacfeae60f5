"""The proof that nothing of the control plane disturbs the stream: all of it at once, at full speed, and the books afterwards."""

from __future__ import annotations

import threading
from datetime import timedelta

import duckdb
import pyarrow as pa
import pytest

from tallystream.settings import TOPICS
from tallystream.store.objects import open_store
from tallystream.topics.contracts import contract
from tallystream.views.loader import create_relations, install_macros, load_views
from tallystream.views.plan import quote
from tallystream.warehouse.manifest import catalog
from tests.live.upkeep import HOURS, at_once, commits, first_hour, history, publish, settle, stream
from tests.oracle.books import compare_accounts, keep, read_log, schemas
from tests.oracle.judging import decode

pytestmark = [pytest.mark.embedded, pytest.mark.slow]


def batch(events):
    """A database with the accepted events, for the views' own SQL."""
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    con.execute("SET asof_loop_join_threshold = 0")
    create_relations(con)
    install_macros(con)
    for topic, listed in events.items():
        con.register("accepted", pa.Table.from_pylist(listed, contract(topic).arrow))
        con.execute(f"INSERT INTO {topic} BY NAME FROM accepted")
        con.unregister("accepted")
    return con


@pytest.mark.timeout(600)
def test_a_day_is_backfilled_snapshot_and_compacted_while_the_stream_runs_at_full_speed(fresh_topics, capsys):
    """Late events of the day come in meanwhile. Every cell of every view then, from the accepted events and these."""
    settings = fresh_topics(2)
    day = first_hour()
    history(settings, 40_000, 400, day)
    # Before the stream begins: it has a backlog to run through, and gets more until the three are done.
    publish(settings, 60_000, 3, day + timedelta(hours=HOURS), 1.0)
    over = threading.Event()
    slower = {"tick": lambda _: over.wait(0.5), "stopped": over.is_set}
    more = threading.Thread(
        target=publish, args=(settings, 60_000, 4, day + timedelta(hours=HOURS + 1), 0.9), kwargs=slower
    )
    with stream(settings):
        more.start()
        done, took = at_once(settings, day)
        over.set()
        more.join()
        settle(settings, 300)
        told = commits(settings)
    with capsys.disabled():
        print(f"\ncommits {told} s; {', '.join(f'{name} {seconds:.1f} s' for name, seconds in took.items())}")
    assert done.late["applied"] > 300 and done.not_promoted == {}
    assert [s.good for s in catalog(open_store(settings), None)] == [True]
    books, known = keep(settings), schemas()
    events = {t: [e for account in by.values() for e in account.applied] for t, by in books.items()}
    with duckdb.connect(str(settings.warehouse), read_only=True) as con:
        compare_accounts(con, books)
        marks = con.execute(
            "SELECT topic, partition, \"offset\" FROM ledger.redriven WHERE verdict = 'applied'"
        ).fetchall()
        assert len(marks) == done.late["applied"]
        logs = {
            topic: {p: {m.offset: m for m in log} for p, log in read_log(settings, topic).items()} for topic in TOPICS
        }
        for topic, partition, offset in marks:
            message = logs[topic][partition][offset]
            events[topic].append(decode(message.key, message.value, known))
        oracle = batch(events)
        for name, plan in load_views().items():
            columns = ", ".join(map(quote, plan.types))
            rows = con.execute(f"SELECT {columns} FROM {name} ORDER BY ALL").fetchall()
            assert (
                len(rows) > 50
                and rows == oracle.execute(f"SELECT {columns} FROM ({plan.batch_sql()}) ORDER BY ALL").fetchall()
            )
