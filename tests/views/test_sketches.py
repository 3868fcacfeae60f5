"""The sketches: near enough, the same whatever the order, and of the set of events alone."""

from __future__ import annotations

import random

import duckdb
import pytest

from tallystream.views import sketches
from tallystream.views.loader import load_view
from tests.conformance.cases import run
from tests.oracle.batch import database as at_once
from tests.views.by_hand import bag
from tests.views.test_every_shape import accepted

VIEW = (
    "SELECT window_start, approx_count_distinct(user_id) AS users, approx_quantile(price_cents, 0.9) AS dear, "
    "approx_quantile(price_cents, 0.5) FILTER (WHERE event_type = 'cart') AS usual, count(DISTINCT user_id) AS exactly "
    "FROM {window} GROUP BY ALL"
)


def events(n, users, seed):
    drawn = random.Random(seed)
    return [
        {
            "event_id": f"e{i}",
            "event_type": drawn.choice(["view", "cart"]),
            "event_time": f"2026-01-01T00:00:{drawn.randrange(40):02}Z",
            "user_id": f"u{drawn.randrange(users)}",
            "session_id": None,
            "product_id": None,
            "category": None,
            "brand": None,
            "url": None,
            "price_cents": drawn.choice([None, 0, drawn.randrange(100), int(drawn.lognormvariate(8, 2))]),
        }
        for i in range(n)
    ]


@pytest.mark.parametrize(
    "window", ["tumble(clicks, INTERVAL 20 SECONDS)", "hop(clicks, INTERVAL 10 SECONDS, INTERVAL 20 SECONDS)"]
)
def test_whatever_the_batches_and_the_partitions_the_same(window, tmp_path):
    view = VIEW.format(window=window)
    clicks = events(600, 300, 1)
    found = []
    for i, (partitions, batch) in enumerate([(1, 600), (3, 17), (2, 100)]):
        (tmp_path / str(i)).mkdir()
        stream = run(view, {"clicks": clicks}, 600, tmp_path / str(i), partitions, batch)
        found.append(bag(stream.con.execute("SELECT * EXCLUDE (is_final) FROM main.v").fetchall()))
        everything = at_once(accepted(stream.logs, lateness=600))
        found.append(bag(everything.execute(stream.plans["v"].batch_sql()).fetchall()))
        stream.con.close()
    assert all(one == found[0] for one in found)
    # As many users as there are hashes kept, or fewer: exact.
    assert all(users == exactly for _, (_, users), _, _, (_, exactly) in found[0])


def test_sessions_keep_sketches_too(tmp_path):
    view = (
        "SELECT event_type, window_start, window_end, approx_count_distinct(user_id) AS users, count(DISTINCT user_id) AS exactly, "
        "approx_quantile(price_cents, 0) AS least, min(price_cents) AS low FROM session(clicks, event_type, INTERVAL 3 SECONDS) GROUP BY ALL"
    )
    stream = run(view, {"clicks": events(40, 10, 2)}, 600, tmp_path, 2, 3)
    rows = stream.con.execute("SELECT users, exactly, least, low FROM main.v").fetchall()
    assert rows and all(users == exactly for users, exactly, _, _ in rows)
    # A whole number, as DuckDB's own is.
    assert all(
        least == low or (type(least) is int and abs(least - low) <= 0.011 * low + 0.5) for _, _, least, low in rows
    )


def test_the_error_is_as_promised():
    con = duckdb.connect()
    con.execute("SELECT setseed(0.5)")
    con.execute(
        "CREATE TABLE t AS SELECT i % 50000 AS member, CAST(exp(random() * 20) AS BIGINT) AS x FROM range(200000) r(i)"
    )
    least = sketches.smallest(f"list(DISTINCT {sketches.hashed('member')})")
    (found,) = con.execute(f"SELECT {sketches.distinct_of('k')} FROM (SELECT {least} AS k FROM t)").fetchone()
    # Four standard errors of 2.2 %.
    assert abs(found - 50000) < 0.09 * 50000
    for q in ("0", "0.01", "0.5", "0.99", "1"):
        made = f"SELECT {sketches.buckets_of('x', '')} AS h, quantile_disc(x, {q}) AS exactly FROM t"
        about, exactly = con.execute(f"SELECT {sketches.quantile_of('h', q)}, exactly FROM ({made})").fetchone()
        assert abs(about - exactly) <= 0.011 * exactly + 0.5, q


def test_numbers_below_zero_and_zero_are_buckets_too():
    con = duckdb.connect()
    for q, wanted in (("0", -1000.0), ("0.5", 0.0), ("1", 1000.0)):
        made = f"SELECT {sketches.buckets_of('x', '')} AS h FROM (VALUES (-1000), (0), (1000)) v(x)"
        (found,) = con.execute(f"SELECT {sketches.quantile_of('h', q)} FROM ({made})").fetchone()
        assert abs(found - wanted) <= 10


def test_a_view_without_a_window_may_estimate_for_ever(tmp_path):
    view = "SELECT event_type, approx_count_distinct(user_id) AS users FROM clicks GROUP BY ALL"
    clicks = events(300, 50, 3)
    stream = run(view, {"clicks": clicks}, 600, tmp_path, 2, 20, restart=True)
    wanted = {k: len({c["user_id"] for c in clicks if c["event_type"] == k}) for k in ("view", "cart")}
    assert dict(stream.con.execute("SELECT event_type, users FROM main.v").fetchall()) == wanted
    assert load_view(tmp_path / "v.sql").window is None
