"""Parity of every shape of view: a sound stream differs in nothing, and each kind of fault shows."""

from __future__ import annotations

import random

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from tallystream.topics.batch import RawBatch
from tallystream.views.loader import load_view
from tallystream.warehouse.archive_files import events_of
from tallystream.warehouse.parity import compare, state_of, stretches, wanted
from tallystream.warehouse.sample import Sample, sample_of
from tests.views.test_every_shape import freeze, logs_of, plans
from tests.warehouse.stream import Stream

# Their columns do not tell which events made a row: that is said, and nothing passes for it.
UNTOLD = {
    "last_click": "it does not show event_time and customer_id of orders",
    "last_click_near": "it does not show event_time and customer_id of orders",
    "first_click": "it does not show event_time and customer_id of orders",
    "last_cart_before": "it does not show event_time and customer_id of orders",
}
ASOF = """
    SELECT o.order_id, o.customer_id, o.event_time AS at, {columns}
    FROM orders AS o ASOF {join} JOIN clicks AS c ON o.customer_id = c.user_id AND {on} WHERE o.event_type = 'OrderCreated'
"""
NEAR = "CASE WHEN c.event_time >= o.event_time - INTERVAL 8 SECONDS THEN c.event_id END AS click_id"
FIRST = "CASE WHEN c.event_time <= o.event_time THEN c.event_id END AS click_id"
# Attributions that show what their rows are made of.
TOLD = {
    "told_far": ASOF.format(columns="c.event_id AS click_id", join="LEFT", on="o.event_time >= c.event_time"),
    "told_near": ASOF.format(columns=NEAR, join="LEFT", on="o.event_time >= c.event_time"),
    "told_first": ASOF.format(columns=FIRST, join="LEFT", on="o.event_time - INTERVAL 8 SECONDS <= c.event_time"),
    "told_inner": ASOF.format(
        columns="c.event_id AS click_id", join="", on="o.event_time + INTERVAL 2 SECONDS > c.event_time"
    ),
    "everything": "SELECT count(*) AS n, sum(price_cents) AS cents FROM clicks",
}


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    folder = tmp_path_factory.mktemp("views")
    for name, sql in TOLD.items():
        (folder / f"{name}.sql").write_text(sql)
    return plans() | {name: load_view(folder / f"{name}.sql") for name in TOLD}


def drawn(seed):
    """Some minutes of clicks and orders, a tenth of them far out of order, with copies."""
    r = random.Random(seed)

    def at(i, n):
        return max(0, i * 240 // n - (r.randrange(90) if r.random() < 0.1 else r.randrange(4)))

    clicks = [
        (at(i, 300), r.choice(["ann", "bob", "cy"]), r.choice(["view", "cart"]), r.choice(["p1", "p2", None]),
         r.choice(["x", "", None]), r.choice(["/a", "/b", None]), r.choice([0, 49, 50, None]))
        for i in range(300)
    ]  # fmt: skip
    orders = [
        (at(i, 60), r.choice(["ann", "bob", "cy"]), r.choice(["OrderCreated", "PaymentCompleted"]),
         r.choice(["o1", "o2"]), [("p1", 1, 100)][: r.randrange(2)])
        for i in range(60)
    ]  # fmt: skip
    return clicks, orders, False


class AtRest:
    """The engine's own connection, as a reader of the warehouse."""

    def __init__(self, con):
        self._con = con

    def rows(self, sql):
        return [], [], self._con.execute(sql).fetchall()

    def arrow(self, sql):
        return self._con.execute(sql).to_arrow_table()


def looked_at(stream, plan, seed, n=4):
    """What parity finds of a view, with the log in place of archive and broker."""
    sample = sample_of(plan, n, seed)
    assert isinstance(sample, Sample), sample
    state = state_of(AtRest(stream.con), plan, sample)
    with duckdb.connect() as con:
        con.register("chosen", state["chosen"])
        pieces = []
        for s in stretches(state):
            log = stream.logs[s.topic][s.partition]
            offsets, stamps = np.array([m.offset for m in log]), np.full(len(log), -1)
            keys, values = [m.key for m in log], [m.value for m in log]
            raw = RawBatch(s.topic, s.partition, 0, len(log), offsets, stamps, keys, values)
            events = events_of(stream.decoders[s.topic].decode(raw))
            taken = events.filter(pa.array([o not in set(s.refused.to_pylist()) for o in events["offset"].to_pylist()]))
            kept = wanted(con, sample, s.topic, taken)
            # Not all of the log is read once more for a few rows.
            pieces += [kept] if kept.num_rows else []
        return state["chosen"].num_rows, compare(con, plan, sample, state["kept"], pieces)


@pytest.fixture(scope="module", params=[1, 2])
def stream(request, views, tmp_path_factory):
    made = Stream(tmp_path_factory.mktemp("parity"), logs_of(drawn(request.param)), 20, 3600)
    made.start(views)
    made.to_end(7)
    freeze(made)
    yield made
    made.con.close()


@pytest.mark.parametrize("name", sorted({*plans(), *TOLD}))
def test_a_sound_view_of_any_shape_differs_in_nothing(stream, views, name):
    if name in UNTOLD:
        assert sample_of(views[name], 4, 0) == UNTOLD[name]
        return
    for seed in range(4):
        chosen, found = looked_at(stream, views[name], seed)
        assert chosen > 0 and found.rows > 0 and found.events > 0
        assert found.examples == ()


def test_a_session_that_was_not_joined_shows(stream, views):
    """Its two parts look like sessions: only the events before it tell."""
    plan = views["session_rows"]
    stream.con.execute("BEGIN")
    try:
        for table in (plan.state, plan.cold):
            stream.con.execute(f"UPDATE {table} SET window_start = last_time, a0 = 1 WHERE a0 > 2")
        chosen, found = looked_at(stream, plan, 0, n=1000)
        assert chosen > 2 and found.differing > 2
    finally:
        stream.con.execute("ROLLBACK")


def test_a_match_that_was_missed_shows(stream, views):
    plan = views["told_near"]
    stream.con.execute("BEGIN")
    try:
        for table in (plan.state, plan.cold):
            stream.con.execute(f"UPDATE {table} SET r = NULL")
        _, found = looked_at(stream, plan, 0, n=1000)
        assert found.differing > 2
    finally:
        stream.con.execute("ROLLBACK")
