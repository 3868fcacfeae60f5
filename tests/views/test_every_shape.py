"""Whatever the batching, the interleaving, the restarts and the freezing: rows as by hand, and as by batch SQL."""

from __future__ import annotations

import tempfile
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from unittest.mock import patch

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tallystream.views.loader import load_view
from tallystream.views.plan import quote
from tallystream.views.shapes import attribution
from tests.oracle.batch import database
from tests.oracle.judging import Message, judge
from tests.views.by_hand import bag
from tests.views.shapes import SHAPES, TIES
from tests.warehouse.stream import SCHEMAS, Stream, encode

LATENESS = 20
BASE = datetime(2026, 3, 1, 12)
USERS = {"ann": 0, "bob": 1, "cy": 1}


@cache
def plans():
    with tempfile.TemporaryDirectory() as folder:
        for name, (sql, _) in SHAPES.items():
            (Path(folder) / f"{name}.sql").write_text(sql)
        return {name: load_view(Path(folder) / f"{name}.sql") for name in SHAPES}


seconds = st.integers(0, 60)
name = st.sampled_from(["p1", "p2", None])
click = st.tuples(
    seconds, st.sampled_from(list(USERS)), st.sampled_from(["view", "cart"]), name, st.sampled_from(["x", "", None]),
    st.sampled_from(["/a", "/b", None]), st.sampled_from([0, 49, 50, 2**40, None]),
)  # fmt: skip
item = st.tuples(st.sampled_from(["p1", "p2"]), st.integers(0, 3), st.sampled_from([0, 100]))
order = st.tuples(
    seconds, st.sampled_from(list(USERS)), st.sampled_from(["OrderCreated", "OrderCreated", "PaymentCompleted"]),
    st.sampled_from(["o1", "o2"]), st.lists(item, max_size=3),
)  # fmt: skip
# Mostly forward in time, as a log is, with disorder up to and beyond the lateness; a copy now and then.
script = st.tuples(st.lists(click, max_size=40), st.lists(order, max_size=15), st.booleans())
steps = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.sampled_from(["orders", "clicks"]), st.integers(0, 1), st.integers(1, 9)),
        st.sampled_from([("commit",), ("commit",), ("freeze",), ("crash",)]),
    ),
    max_size=30,
)


def logs_of(drawn):
    clicks, orders, in_order = drawn
    logs = {t: {0: [], 1: []} for t in ("orders", "clicks")}

    def put(topic, partition, key, event):
        log = logs[topic][partition]
        log.append(Message(len(log), None, key.encode(), encode(topic, event)))

    for i, (at, user, kind, product, brand, url, cents) in enumerate(
        sorted(clicks, key=lambda c: c[0]) if in_order else clicks
    ):
        event = {
            "event_id": f"c{i % 35}", "event_type": kind, "event_time": BASE + timedelta(seconds=at), "user_id": user,
            "session_id": None, "product_id": product, "category": None, "brand": brand, "url": url, "price_cents": cents,
        }  # fmt: skip
        put("clicks", USERS[user], user, event)
    for i, (at, user, kind, order_id, listed) in enumerate(sorted(orders, key=lambda o: o[0]) if in_order else orders):
        lines = [dict(zip(("product_id", "quantity", "unit_price_cents"), line, strict=True)) for line in listed]
        event = {
            "event_id": f"o{i % 13}", "event_type": kind, "event_time": BASE + timedelta(seconds=at), "order_id": order_id,
            "customer_id": user, "items": lines, "total_cents": min(sum(q * c for _, q, c in listed), 2**62), "currency": "EUR",
        }  # fmt: skip
        put("orders", int(order_id[1]) - 1, order_id, event)
    return logs


def accepted(logs, lateness=LATENESS):
    rules = {"lateness": timedelta(seconds=lateness), "horizon": timedelta(seconds=3600)}
    return {t: [e for log in by.values() for e in judge(log, SCHEMAS, **rules).applied] for t, by in logs.items()}


def freeze(stream, rows=7):
    """As the compaction does: rows that are final leave the hot tables, and what only open ones need is dropped."""
    live = {name for (name,) in stream.con.execute("SELECT name FROM ledger.views WHERE status = 'live'").fetchall()}
    stream.con.execute("BEGIN")
    for plan in (p for p in stream.plans.values() if p.name in live):
        for statement in plan.freeze_sql(rows):
            stream.con.execute(statement)
    stream.con.execute("COMMIT")


def run(stream, steps):
    """Reads, commits, freezes and crashes as told, then to the end; the rows that were final on the way, by view."""
    pending, finals = [], {name: [] for name in plans()}
    for step in steps:
        if step[0] == "read":
            delta = stream.read(*step[1:])
            pending += [delta] if delta is not None else []
        elif step[0] == "crash":
            # The first one brings the views that were not there, to be built from the log while the others go on.
            stream.start(plans())
            pending = []
        else:
            if pending:
                stream.commit(pending)
                pending = []
            if step[0] == "freeze":
                freeze(stream)
                for (name,) in stream.con.execute("SELECT name FROM ledger.views WHERE status = 'live'").fetchall():
                    finals[name].append(shown(stream, name, "WHERE is_final"))
    if pending:
        stream.commit(pending)
    if len(stream.plans) < len(plans()):
        stream.start(plans())
    stream.to_end(5)
    return finals


def shown(stream, name, where=""):
    plan = stream.plans[name]
    if where and plan.window is None:
        return bag([])
    return bag(stream.con.execute(f"SELECT {', '.join(map(quote, plan.types))} FROM main.{name} {where}").fetchall())


# Without shrinking: an example takes half a second, and shrinking it minutes.
@settings(
    max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate]
)
@given(drawn=script, steps=steps)
def test_rows_are_those_by_hand_and_those_of_the_batch(drawn, steps):
    logs = logs_of(drawn)
    events = accepted(logs)
    # So short that a click is often found in the second step only.
    with tempfile.TemporaryDirectory() as folder, patch.object(attribution, "CLOSE", 1_000_000):
        stream = Stream(Path(folder), logs, LATENESS, 3600)
        stream.start(dict(list(plans().items())[::2]))
        finals = run(stream, steps)
        for last in ("open", "frozen"):
            for name, (_, by_hand) in SHAPES.items():
                assert shown(stream, name) == bag(by_hand(events)), f"{name}, {last}"
                for then in finals[name]:
                    assert then <= shown(stream, name, "WHERE is_final"), f"{name}: a final row changed"
            freeze(stream)
        con = database(events)
        for name, plan in plans().items():
            assert shown(stream, name) == bag(con.execute(plan.batch_sql()).fetchall()), name
            if name not in TIES:
                assert shown(stream, name) == bag(con.execute(plan.sql).fetchall()), name
        stream.con.close()
