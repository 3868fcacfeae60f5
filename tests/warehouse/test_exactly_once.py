"""Whatever the batches, the order of partitions, the commits and the restarts: the books are those kept by hand."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tallystream.errors import FenceError
from tallystream.views.loader import load_views
from tests.oracle.batch import compare_with_batch
from tests.oracle.books import compare
from tests.oracle.judging import Message, judge

from .stream import SCHEMAS, Stream, encode

BASE = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATENESS, HORIZON = 90, 240
PLANS = load_views()
seconds = st.one_of(st.integers(0, 600), st.sampled_from([0, 59, 60, 61, 119, 120, 300]))


# An id and a key are in one partition, as the key decides it: two events of one id and one time there would be copies.
@st.composite
def order(draw, partition):
    number = 2 * draw(st.integers(0, 15)) + partition
    kind = draw(st.sampled_from(["OrderCreated", "StockReserved", "PaymentCompleted", "OrderCancelled", "heartbeat"]))
    return {
        "event_id": f"o{number}",
        "event_type": kind,
        "event_time": BASE + timedelta(seconds=draw(seconds)),
        "order_id": f"order{number % 4}",
        "customer_id": draw(st.sampled_from(["ann", "bob"])),
        "items": [],
        "total_cents": draw(st.integers(-5, 1000)),
        "currency": draw(st.sampled_from(["EUR", "USD"])),
    }


@st.composite
def click(draw, partition):
    return {
        "event_id": f"c{2 * draw(st.integers(0, 20)) + partition}",
        "event_type": draw(st.sampled_from(["view", "cart", "heartbeat"])),
        "event_time": BASE + timedelta(seconds=draw(seconds)),
        "user_id": draw(st.sampled_from([["ann", "cid"], ["bob"]][partition])),
        "session_id": None,
        "product_id": draw(st.sampled_from(["p1", "p2", None])),
        "category": draw(st.sampled_from(["shoes", None])),
        "brand": None,
        "url": None,
        "price_cents": draw(st.one_of(st.none(), st.integers(0, 99))),
    }


def pairs(topic, event):
    """(key, value) of a message: of an event, under a wrong key now and then, or of none."""
    good = event.map(lambda e: (e["order_id" if topic == "orders" else "user_id"].encode(), encode(topic, e)))
    bad_key = st.tuples(st.sampled_from([None, b"", b"k"]), good).map(lambda kp: (kp[0], kp[1][1]))
    garbage = st.tuples(st.just(b"ann"), st.sampled_from([None, b"", b"\0\0\0\0\x63x", b"{"]))
    return st.one_of(good, good, good, good, good, bad_key, garbage)


def log(topic, event):
    stamp = int(BASE.timestamp() * 1000) + 500_000
    stamps = st.sampled_from([stamp, stamp, stamp, None, stamp - 3_900_000])
    message = st.tuples(pairs(topic, event), stamps)
    return st.lists(message, max_size=25).map(lambda ms: [Message(i, s, k, v) for i, ((k, v), s) in enumerate(ms)])


logs = st.fixed_dictionaries(
    {
        "orders": st.fixed_dictionaries({p: log("orders", order(p)) for p in range(2)}),
        "clicks": st.fixed_dictionaries({p: log("clicks", click(p)) for p in range(2)}),
    }
)
# A step of the engine: read up to n of a partition, commit what was read, crash (what was read is gone).
steps = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.sampled_from(["orders", "clicks"]), st.integers(0, 1), st.integers(1, 12)),
        st.tuples(st.just("commit")),
        st.tuples(st.just("crash")),
    ),
    max_size=30,
)


def books(logs):
    rules = {"lateness": timedelta(seconds=LATENESS), "horizon": timedelta(seconds=HORIZON)}
    return {t: {p: judge(ms, SCHEMAS, **rules) for p, ms in by.items()} for t, by in logs.items()}


# Without shrinking, which takes minutes.
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)  # fmt: skip
@given(logs=logs, steps=steps)
def test_the_books_are_those_kept_by_hand(logs, steps):
    with tempfile.TemporaryDirectory() as folder:
        stream = Stream(Path(folder), logs, LATENESS, HORIZON)
        stream.start(PLANS)
        pending = []
        for step in steps:
            if step[0] == "read":
                delta = stream.read(*step[1:])
                pending += [delta] if delta is not None else []
            elif step[0] == "commit" and pending:
                stream.commit(pending)
                pending = []
            elif step[0] == "crash":
                stream.start(PLANS)
                pending = []
        if pending:
            stream.commit(pending)
        stream.to_end(7)
        compare(stream.con, books(logs))
        compare_with_batch(stream.con, PLANS, told(books(logs)))
        stream.con.close()


def told(books):
    """The events that views are told of, by topic."""
    return {t: [e for a in by.values() for e in a.applied if e["event_type"] != "heartbeat"] for t, by in books.items()}


def simple_logs(n=20):
    event = {
        "event_id": "", "event_type": "view", "event_time": BASE, "user_id": "ann", "session_id": None,
        "product_id": "p1", "category": None, "brand": None, "url": None, "price_cents": None,
    }  # fmt: skip
    clicks = [Message(i, None, b"ann", encode("clicks", {**event, "event_id": f"e{i}"})) for i in range(n)]
    return {"orders": {0: []}, "clicks": {0: clicks}}


def test_a_zombie_writer_is_fenced_and_counts_nothing(tmp_path):
    logs = simple_logs()
    stream = Stream(tmp_path, logs, LATENESS, HORIZON)
    stream.start()
    zombie = stream.read("clicks", 0, 10)
    stream.position["clicks", 0] = 0
    stream.judges["clicks", 0] = type(stream.judges["clicks", 0])("clicks", 0, stream.rules)
    stream.commit([stream.read("clicks", 0, 10)])
    with pytest.raises(FenceError, match="clicks/0: the warehouse stands at offset 10, this commit begins at 0"):
        stream.commit([zombie])
    stream.to_end()
    compare(stream.con, books(logs))


def test_without_the_fence_a_zombie_counts_twice_and_the_books_tell(tmp_path, monkeypatch):
    """The negative control: the test above would not notice a missing fence if the books could not."""
    logs = simple_logs()
    stream = Stream(tmp_path, logs, LATENESS, HORIZON)
    stream.start()
    first = stream.read("clicks", 0, 10)
    monkeypatch.setattr(stream.committer, "_fence", lambda live: None)
    stream.commit([first])
    stream.commit([first])
    stream.to_end()
    with pytest.raises(AssertionError):
        compare(stream.con, books(logs))


def test_offsets_committed_apart_from_the_rows_are_noticed(tmp_path, monkeypatch):
    """The negative control of atomicity: offsets move, the crash takes the rows, the books tell."""
    logs = simple_logs()
    stream = Stream(tmp_path, logs, LATENESS, HORIZON)
    stream.start()
    delta = stream.read("clicks", 0, 10)
    delta.partials.clear()
    stream.commit([delta])
    stream.start()
    stream.to_end()
    with pytest.raises(AssertionError, match=r"clicks_per_minute|top_products"):
        compare(stream.con, books(logs))


def test_batches_that_leave_a_hole_are_refused(tmp_path):
    stream = Stream(tmp_path, simple_logs(), LATENESS, HORIZON)
    stream.start()
    first, _, third = (stream.read("clicks", 0, 5) for _ in range(3))
    with pytest.raises(FenceError, match="a batch ends at 5, the next begins at 10"):
        stream.commit([first, third])
    assert stream.con.execute("SELECT sum(consumed) FROM ledger.offsets").fetchone() == (0,)


def test_a_heartbeat_moves_the_watermark_is_counted_and_reaches_no_view(tmp_path):
    logs = with_heartbeat()
    stream = Stream(tmp_path, logs, LATENESS, HORIZON)
    stream.start()
    stream.to_end()
    compare(stream.con, books(logs))
    assert stream.con.execute(
        "SELECT applied, max_event_time FROM ledger.offsets WHERE topic = 'clicks'"
    ).fetchall() == [(21, datetime(2026, 3, 1, 12, 5))]
    assert stream.con.execute("SELECT watermark FROM ledger.watermarks WHERE topic = 'clicks'").fetchall() == [
        (datetime(2026, 3, 1, 12, 5) - timedelta(seconds=LATENESS),)
    ]
    assert stream.con.execute("SELECT bool_and(is_final), sum(clicks) FROM clicks_per_minute").fetchall() == [
        (True, 20)
    ]


def test_a_heartbeat_that_reached_a_view_would_be_noticed(tmp_path, monkeypatch):
    """The negative control of the test above."""
    monkeypatch.setattr("tallystream.views.tally.without_heartbeats", lambda events: events)
    logs = with_heartbeat()
    stream = Stream(tmp_path, logs, LATENESS, HORIZON)
    stream.start()
    stream.to_end()
    with pytest.raises(AssertionError, match="clicks_per_minute"):
        compare(stream.con, books(logs))


def with_heartbeat():
    logs = simple_logs()
    event = {
        "event_id": "hb", "event_type": "heartbeat", "event_time": BASE + timedelta(minutes=5), "user_id": "heartbeat",
        "session_id": None, "product_id": None, "category": None, "brand": None, "url": None, "price_cents": None,
    }  # fmt: skip
    logs["clicks"][0].append(Message(20, None, b"heartbeat", encode("clicks", event)))
    return logs


def test_windows_that_begin_before_the_year_1_are_kept(tmp_path):
    """An event of its first minute is an event like any other; Python has no time for the windows that it is in."""
    event = {
        "event_id": "c0", "event_type": "view", "event_time": datetime(1, 1, 1, 0, 0, 30, tzinfo=UTC), "user_id": "ann",
        "session_id": None, "product_id": "p1", "category": None, "brand": None, "url": None, "price_cents": None,
    }  # fmt: skip
    logs = {"orders": {0: []}, "clicks": {0: [Message(i, None, b"ann", encode("clicks", event)) for i in range(2)]}}
    stream = Stream(tmp_path, logs, LATENESS, HORIZON)
    stream.start()
    stream.to_end(1)
    for view, column, wanted in (("top_products", "views", 5), ("clicks_per_minute", "visitors", 1)):
        rows = stream.con.execute(f"SELECT count(*), sum({column})::BIGINT FROM {view}").fetchone()
        assert rows == (wanted, wanted), view
    first = stream.con.execute("SELECT min(epoch_us(window_start)) FROM top_products").fetchone()
    assert first[0] == int(event["event_time"].timestamp()) * 10**6 - 270 * 10**6
