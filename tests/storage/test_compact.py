"""Compaction changes no cell of any view: not when it ends, not when it is killed, not with what comes after it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import duckdb
import pytest

from tallystream.views.loader import load_views
from tallystream.warehouse import cold
from tallystream.warehouse.compact import Policy, compact, expire_sandboxes, shorten_commits
from tallystream.warehouse.redrive import Summary, redrive
from tests.oracle.books import compare
from tests.oracle.judging import Message, judge
from tests.warehouse.stream import NOW, SCHEMAS, Stream, encode

BASE = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATENESS, HORIZON = 60, 7200
PLANS = load_views()
NOTHING = contextlib.nullcontext()
POLICY = Policy(rows=7, sets=timedelta(days=1), commits=timedelta(hours=-2))


def click(i, at, user="ann", product="p1"):
    return encode(
        "clicks",
        {
            "event_id": f"c{i}", "event_type": "view", "event_time": BASE + timedelta(seconds=at), "user_id": user,
            "session_id": None, "product_id": product, "category": None, "brand": None, "url": f"/{i}", "price_cents": None,
        },
    )  # fmt: skip


def order(i, at, customer="ann"):
    return encode(
        "orders",
        {
            "event_id": f"o{i}", "event_type": "OrderCreated", "event_time": BASE + timedelta(seconds=at),
            "order_id": "k", "customer_id": customer, "items": [], "total_cents": i, "currency": "EUR",
        },
    )  # fmt: skip


def shop(first, last):
    """One user's visits: five clicks and orders, 100 s apart, then 40 minutes of nothing."""
    times = {i: i * 100 + i // 5 * 2000 for i in range(first, last)}
    clicks = [click(i, at, "ann", f"p{i % 3}") for i, at in times.items()]
    orders = [order(i, at + 30, "ann") for i, at in times.items()]
    return clicks, orders


@pytest.fixture
def stream(tmp_path, monkeypatch):
    monkeypatch.setenv("TALLY_HOME", str(tmp_path))
    monkeypatch.setenv("TALLY_LATENESS", str(LATENESS))
    clicks, orders = shop(0, 60)
    logs = {
        "orders": {0: [Message(i, None, b"k", v) for i, v in enumerate(orders)]},
        "clicks": {0: [Message(i, None, b"ann", v) for i, v in enumerate(clicks)]},
    }
    s = Stream(tmp_path, logs, LATENESS, HORIZON)
    s.start(PLANS)
    s.to_end(10)
    yield s
    s.con.close()


def add(s, topic, *values):
    log = s.logs[topic][0]
    log += [Message(len(log) + i, None, b"k" if topic == "orders" else b"ann", v) for i, v in enumerate(values)]


def books(s):
    rules = {"lateness": timedelta(seconds=LATENESS), "horizon": timedelta(seconds=HORIZON)}
    return {t: {p: judge(ms, SCHEMAS, **rules) for p, ms in by.items()} for t, by in s.logs.items()}


def views(con):
    return {name: con.execute(f"SELECT * FROM main.{name} ORDER BY ALL").fetchall() for name in PLANS}


def counts(s, name):
    plan = PLANS[name]
    return tuple(s.con.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in (plan.state, plan.cold))


def squeeze(s, policy=POLICY):
    return compact(s.con, s.settings, PLANS, NOTHING, NOW, policy)


def test_final_rows_go_cold_and_no_cell_changes(stream):
    before = views(stream.con)
    done = squeeze(stream)
    assert views(stream.con) == before
    compare(stream.con, books(stream))
    for name, plan in PLANS.items():
        _, cold_rows = counts(stream, name)
        assert done["moved"][name] == cold_rows == done["after"]["views"][name]["cold"]
        if plan.final_condition("s") is None:
            assert cold_rows == 0
        else:
            assert cold_rows > 7, "more than one transaction's rows"
            left = f"SELECT count(*) FROM {plan.state} s WHERE {plan.final_condition('s')}"
            assert stream.con.execute(left).fetchone() == (0,)
    assert squeeze(stream)["moved"] == dict.fromkeys(PLANS, 0)


def test_the_stream_goes_on_after_it_and_after_a_restart(stream):
    for first in (60, 80, 100):
        squeeze(stream)
        clicks, orders = shop(first, first + 20)
        add(stream, "clicks", *clicks)
        add(stream, "orders", *orders)
        stream.start(PLANS)
        stream.to_end(6)
        compare(stream.con, books(stream))


class Everything:
    def __init__(self, s):
        self.logs = s.logs

    def begins(self, topic, partition):
        return 0

    def ids(self, topic, partition, until):
        return iter(())


def late(s):
    """Late clicks into old sessions and windows, and a late order; redriven."""
    add(s, "clicks", click(900, 333), click(901, 2000), click(902, 777, product="p9"))
    add(s, "orders", order(903, 1234))
    s.start(PLANS)
    s.to_end()
    assert s.con.execute("SELECT sum(late) FROM ledger.offsets").fetchone() == (4,)


def drive(s):
    return redrive(s.con, s.settings, "late", None, NOW, Everything(s), NOTHING, False)


def test_a_redrive_thaws_what_it_touches(stream, tmp_path_factory):
    other = Stream(tmp_path_factory.mktemp("other"), stream.logs, LATENESS, HORIZON)
    other.start(PLANS)
    other.to_end()
    late(stream)
    other.start(PLANS)
    other.to_end()
    squeeze(stream)
    assert drive(stream) == drive(other) == Summary(applied=4)
    assert views(stream.con) == views(other.con)
    squeeze(stream)
    assert views(stream.con) == views(other.con)
    other.con.close()


def test_without_the_thaw_a_redrive_into_cold_rows_is_noticed(stream, monkeypatch):
    """The negative control: the same window would be there twice."""
    late(stream)
    squeeze(stream)
    monkeypatch.setattr("tallystream.warehouse.redriven.thaw", lambda *_: None)
    drive(stream)
    query = "SELECT count(*), count(DISTINCT (window_start, product_id)) FROM top_products"
    rows, windows = stream.con.execute(query).fetchone()
    assert rows > windows


def test_what_was_forgotten_is_not_amended_wrongly(stream):
    late(stream)
    before = views(stream.con)
    squeeze(stream, Policy(rows=7, sets=timedelta(0), commits=timedelta(days=1)))
    assert views(stream.con) == before
    assert drive(stream) == Summary(settled=4)
    assert views(stream.con) == before
    clicks, orders = shop(60, 80)
    add(stream, "clicks", *clicks)
    add(stream, "orders", *orders)
    stream.start(PLANS)
    stream.to_end()
    compare(stream.con, books(stream))


def test_a_lateness_raised_later_meets_cold_windows(stream):
    """The watermark goes back, events are accepted into windows that were final: they thaw."""
    squeeze(stream)
    add(stream, "clicks", click(950, 24000), click(951, 24010, product="p2"))
    wider = Stream(stream.settings.root, stream.logs, 5000, HORIZON)
    stream.con.close()
    wider.start(PLANS)
    wider.to_end()
    rules = {"horizon": timedelta(seconds=HORIZON)}
    told = books(stream)
    told["clicks"][0] = judge(stream.logs["clicks"][0], SCHEMAS, lateness=timedelta(seconds=5000), **rules)
    compare(wider.con, told)
    stream.con = wider.con


def test_commit_rows_are_joined_exactly(stream):
    s = stream
    before = s.con.execute("SELECT * FROM (SELECT topic, partition, sum(COLUMNS(['consumed', 'applied', 'late', 'dead'])) FROM ledger.commits GROUP BY ALL) ORDER BY ALL").fetchall()  # fmt: skip
    span = "SELECT min(min_event_time), max(max_event_time), max(id), min(coalesce(first_id, id)) FROM ledger.commits"
    spans = s.con.execute(span).fetchall()
    assert shorten_commits(s.con, NOTHING, NOW + timedelta(hours=1)) == 10
    assert s.con.execute("SELECT count(*) FROM ledger.commits").fetchone() == (2,)
    after = s.con.execute("SELECT * FROM (SELECT topic, partition, sum(COLUMNS(['consumed', 'applied', 'late', 'dead'])) FROM ledger.commits GROUP BY ALL) ORDER BY ALL").fetchall()  # fmt: skip
    assert after == before
    assert s.con.execute(span).fetchall() == spans
    compare(s.con, books(s))
    assert shorten_commits(s.con, NOTHING, NOW + timedelta(hours=1)) == 0


def test_rows_of_commits_are_not_joined_over_a_hole_nor_over_an_hour(stream):
    s = stream
    s.con.execute("UPDATE ledger.commits SET from_offset = from_offset + 1 WHERE topic = 'clicks' AND from_offset = 30")
    s.con.execute("UPDATE ledger.commits SET committed_at = committed_at + INTERVAL 1 HOUR WHERE topic = 'orders' AND from_offset >= 40")  # fmt: skip
    shorten_commits(s.con, NOTHING, NOW + timedelta(hours=2))
    found = s.con.execute("SELECT topic, from_offset, to_offset FROM ledger.commits ORDER BY ALL").fetchall()
    assert found == [("clicks", 0, 30), ("clicks", 31, 60), ("orders", 0, 40), ("orders", 40, 60)]


def test_tables_that_are_mostly_dead_rows_are_written_anew(stream, monkeypatch):
    monkeypatch.setattr(cold, "DEAD_ROWS", 5)
    squeeze(stream)
    plan = PLANS["top_products"]
    hot, _ = counts(stream, "top_products")
    assert stream.con.execute(f"SELECT coalesce(max(rowid) + 1, 0) FROM {plan.state}").fetchone() == (hot,)
    stream.start(PLANS)
    add(stream, "clicks", *shop(60, 80)[0])
    stream.start(PLANS)
    stream.to_end()
    compare(stream.con, books(stream))


SCRIPT = """
import contextlib, duckdb
from datetime import timedelta
from tallystream.settings import load
from tallystream.views.loader import load_views
from tallystream.warehouse import cold
from tallystream.warehouse.compact import Policy, compact
from tests.warehouse.stream import NOW
cold.DEAD_ROWS = 5
s = load()
policy = Policy(rows=7, sets=timedelta(0), commits=timedelta(hours=-2))
compact(duckdb.connect(str(s.warehouse)), s, load_views(), contextlib.nullcontext(), NOW, policy)
"""
FAILPOINTS = [
    "compact.after_copy:3", "compact.before_commit:4", "compact.after_commit:5", "compact.inside_forget:2",
    "compact.inside_rebuild:2", "compact.inside_commits", "compact.after_checkpoint",
]  # fmt: skip


@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_killed_anywhere_no_cell_changes_and_the_next_one_ends_it(stream, failpoint):
    before = views(stream.con)
    stream.con.close()
    done = subprocess.run([sys.executable, "-c", SCRIPT], env={**os.environ, "TALLY_FAILPOINT": failpoint}, timeout=100)
    assert done.returncode == -9
    stream.con = duckdb.connect(str(stream.settings.warehouse))
    assert views(stream.con) == before
    squeeze(stream)
    assert views(stream.con) == before
    add(stream, "clicks", *shop(60, 70)[0])
    stream.start(PLANS)
    stream.to_end()
    compare(stream.con, books(stream))


def test_rows_copied_but_not_deleted_would_be_noticed(stream):
    """The negative control of the comparison above."""
    plan = PLANS["top_products"]
    before = views(stream.con)
    stream.con.execute(f"INSERT INTO {plan.cold} SELECT * FROM {plan.state} LIMIT 1")
    assert views(stream.con) != before


def test_old_sandboxes_go_and_young_ones_stay(tmp_path):
    now = datetime(2026, 3, 10)
    for name, age in (("old", 8), ("young", 6)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tally.duckdb").touch()
        written = (now - timedelta(days=age)).replace(tzinfo=UTC).timestamp()
        for path in (tmp_path / name / "tally.duckdb", tmp_path / name):
            os.utime(path, (written, written))
    assert expire_sandboxes(tmp_path, now - timedelta(days=7)) == ["old"]
    assert [p.name for p in tmp_path.iterdir()] == ["young"]
    assert expire_sandboxes(tmp_path / "none", now) == []
