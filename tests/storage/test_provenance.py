"""The offsets that are said to have made a row are those that a person would find, message by message."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from tallystream.errors import UsageError
from tallystream.topics.batch import RawBatch
from tallystream.warehouse import provenance
from tallystream.warehouse.compact import shorten_commits
from tests.oracle.judging import Message
from tests.storage.test_compact import BASE, LATENESS, NOTHING, PLANS, add, books, click, shop
from tests.warehouse.stream import NOW, Stream

GAP = timedelta(minutes=30)


class OverConnection:
    """What a Reader gives, over the test's own connection."""

    def __init__(self, con):
        self.con = con

    def rows(self, sql):
        result = self.con.execute(sql)
        return [d[0] for d in result.description], [], result.fetchall()


@pytest.fixture
def stream(tmp_path, monkeypatch):
    clicks, orders = shop(0, 30)
    logs = {
        "orders": {0: [Message(i, None, b"k", v) for i, v in enumerate(orders)]},
        "clicks": {0: [Message(i, None, b"ann", v) for i, v in enumerate(clicks)], 1: []},
    }
    s = Stream(tmp_path, logs, LATENESS, 7200)
    # Copies, a late click, a heartbeat's worth of nothing, and another partition with the same ids.
    add(s, "clicks", clicks[29], click(900, 5), b"no event")
    s.logs["clicks"][1] += [Message(i, None, b"ann", v) for i, v in enumerate(clicks[::2])]
    s.start(PLANS)
    s.to_end(7)

    def read(_settings, _store, topic, partition, first, until):
        messages = [m for m in s.logs[topic][partition] if first <= m.offset < until]
        raw = RawBatch(
            topic, partition, first, until, np.array([m.offset for m in messages]), np.full(len(messages), -1),
            [m.key for m in messages], [m.value for m in messages],
        )  # fmt: skip
        yield s.decoders[topic].decode(raw)

    monkeypatch.setattr(provenance, "_read", read)
    yield s
    s.con.close()


def applied(s):
    """(topic, partition, offset, event) of every event the judge would apply, kept by hand."""
    for topic, by in books(s).items():
        for partition, account in by.items():
            aside = {*account.duplicate, *account.late, *account.dead}
            offsets = [m.offset for m in s.logs[topic][partition] if m.offset not in aside]
            for offset, event in zip(offsets, account.applied, strict=True):
                yield topic, partition, offset, event


def by_hand(s, topics, belongs):
    found = {}
    for topic, partition, offset, event in applied(s):
        if topic in topics and belongs(event):
            found.setdefault(f"{topic}/{partition}", []).append(offset)
    return dict(sorted(found.items()))


def explained(s, view, **keys):
    reader = OverConnection(s.con)
    row = provenance.find(reader, PLANS[view], {k: str(v) for k, v in keys.items()})
    told = provenance.provenance(reader, PLANS[view], row)
    return told | provenance.exact(reader, s.settings, None, PLANS[view], row, told)


def inside(start, end):
    return lambda e: start <= e["event_time"] < end


def test_every_row_of_the_shipped_views_names_its_very_offsets(stream):
    s = stream
    for start, end, product in s.con.execute(
        "SELECT window_start, window_end, product_id FROM top_products"
    ).fetchall():
        told = explained(s, "top_products", window_start=start, product_id=product)
        mine = by_hand(s, ["clicks"], lambda e: inside(start, end)(e) and e["product_id"] == product)  # noqa: B023
        assert told["offsets"] == mine
        assert told["recomputed"]
        covered = {(r["topic"], r["partition"], o) for r in told["ranges"] for o in range(r["from"], r["to"])}
        for where, offsets in mine.items():
            topic, partition = where.split("/")
            assert {(topic, int(partition), o) for o in offsets} <= covered


def test_sessions_totals_and_rows_of_two_topics(stream):
    s = stream
    for user, start, end in s.con.execute("SELECT user_id, window_start, window_end FROM sessions").fetchall():
        told = explained(s, "sessions", user_id=user, window_start=start)
        assert told["offsets"] == by_hand(s, ["clicks", "orders"], inside(start, end - GAP + timedelta(microseconds=1)))
        assert told["recomputed"]
        assert sorted(told["watermarks"]) == ["clicks", "orders"]
    told = explained(s, "order_status", order_id="k")
    assert told["offsets"] == {"orders/0": list(range(30))}
    assert told["events_from"] is None
    assert told["commits"] == {"first": 1, "last": 5}


def test_only_commits_that_can_have_made_the_row_are_named_before_and_after_they_are_joined(stream):
    s = stream
    first = BASE.replace(tzinfo=None)
    told = explained(s, "revenue_per_minute", window_start=first, currency="EUR")
    assert [r for r in told["ranges"] if r["topic"] == "orders"] == told["ranges"]
    assert told["ranges"] == [{"topic": "orders", "partition": 0, "from": 0, "to": 7}]
    assert told["commits"] == {"first": 1, "last": 1}
    assert told["schema_ids"] == [1]
    shorten_commits(s.con, NOTHING, NOW + timedelta(hours=2))
    joined = explained(s, "revenue_per_minute", window_start=first, currency="EUR")
    assert joined["offsets"] == told["offsets"] == {"orders/0": [0]}
    assert joined["commits"] == {"first": 1, "last": 5}


def test_a_commit_that_the_ledger_lost_is_noticed(stream):
    """The negative control: without its offsets, the row cannot be made again."""
    s = stream
    s.con.execute(
        "UPDATE ledger.commits SET to_offset = 3 WHERE topic = 'clicks' AND partition = 0 AND from_offset = 0"
    )
    start = BASE.replace(tzinfo=None) + timedelta(seconds=360)
    told = explained(s, "clicks_per_minute", window_start=start, event_type="view", category="NULL")
    assert not told["recomputed"]


def test_attributions_tell_their_ranges_and_refuse_single_offsets(stream):
    s = stream
    reader = OverConnection(s.con)
    at = BASE.replace(tzinfo=None) + timedelta(seconds=30)
    row = provenance.find(reader, PLANS["order_attribution"], {"order_time": str(at)})
    assert (row.start, row.end) == (at - GAP, at + timedelta(microseconds=1))
    told = provenance.provenance(reader, PLANS["order_attribution"], row)
    assert {r["topic"] for r in told["ranges"]} == {"clicks", "orders"}
    with pytest.raises(UsageError, match="is an attribution"):
        provenance.exact(reader, s.settings, None, PLANS["order_attribution"], row, told)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"colour": "red"}, "has no column colour; it has window_start"),
        ({"currency": "CHF"}, "has no row with currency=CHF"),
        ({"currency": "EUR"}, "rows with currency=EUR; name more columns"),
        ({}, "rows with no key"),
        ({"currency": "x'; DROP TABLE late_events; --"}, "has no row"),
    ],
)
def test_what_names_no_single_row_is_refused(stream, keys, told):
    with pytest.raises(UsageError, match=told):
        provenance.find(OverConnection(stream.con), PLANS["revenue_per_minute"], keys)


def test_a_redriven_event_is_named(stream):
    s = stream
    s.con.execute(
        'CREATE TABLE ledger.redriven (topic VARCHAR, partition INTEGER, "offset" BIGINT, kind VARCHAR, verdict VARCHAR, '
        "event_id VARCHAR, event_time TIMESTAMP, remembered BOOLEAN, redriven_at TIMESTAMP)"
    )
    start = BASE.replace(tzinfo=None)
    before = explained(s, "clicks_per_minute", window_start=start, event_type="view", category="NULL")
    assert before["redriven"] == []
    s.con.execute(
        "INSERT INTO ledger.redriven VALUES ('clicks', 0, 31, 'late', 'applied', 'c900', ?, false, ?)",
        [start + timedelta(seconds=5), NOW],
    )
    after = explained(s, "clicks_per_minute", window_start=start, event_type="view", category="NULL")
    assert [r["offset"] for r in after["redriven"]] == [31]
    assert after["offsets"]["clicks/0"] == [0, 31]
    assert not after["recomputed"], "marked by hand: the view does not hold it"
