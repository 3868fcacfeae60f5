"""The synthetic shop: exact, seeded, plausible, and disturbed only on request."""

import io
import time
from datetime import UTC

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from tallystream.errors import ContractError, UsageError
from tallystream.topics.batch import RawBatch
from tallystream.topics.contracts import KEYS, contract
from tallystream.topics.decode import Decoder
from tallystream.topics.encode import Encoder
from tallystream.topics.generate import broken, fill
from tallystream.topics.judge import Judge, Rules
from tallystream.topics.registry import FolderRegistry
from tallystream.topics.shop import Shop, arrivals, shop_events

SECOND = 1_000_000


def by_topic(*args, **options) -> dict[str, pa.Table]:
    found: dict[str, list[pa.Table]] = {"orders": [], "clicks": []}
    for topic, events in shop_events(*args, **options):
        found[topic].append(events)
    return {
        t: pa.concat_tables([contract(t).arrow.empty_table(), *parts]).combine_chunks() for t, parts in found.items()
    }


@pytest.mark.parametrize("n", [0, 1, 7, 1000, 39_999, 60_000])
def test_so_many_events_over_both_topics_exactly(n):
    shop = by_topic(n, seed=3)
    ids = [i for events in shop.values() for i in events["event_id"].to_pylist()]
    assert len(ids) == len(set(ids)) == n


def test_the_same_seed_gives_the_same_events_and_another_seed_none_of_them():
    options = {"duplicates": 0.02, "disorder": 30.0}
    assert by_topic(20_000, seed=5, **options) == by_topic(20_000, seed=5, **options)
    ids = [set(by_topic(20_000, seed=s)["clicks"]["event_id"].to_pylist()) for s in (5, 6)]
    assert not ids[0] & ids[1]


def test_orders_go_through_their_life_in_order():
    orders = by_topic(30_000, seed=1)["orders"].to_pylist()
    lives: dict[str, list[dict]] = {}
    for event in orders:
        lives.setdefault(event["order_id"], []).append(event)
    ends = []
    for number, life in enumerate(lives.values()):
        steps = [e["event_type"] for e in life]
        assert steps[:2] == ["OrderCreated", "StockReserved"][: len(steps)]
        assert [e["event_time"] for e in life] == sorted(e["event_time"] for e in life)
        ends += steps[2:]
        assert len(steps) == 3 or number > len(lives) - 200, "only the last session may be cut short"
        for name in ("customer_id", "items", "total_cents", "currency"):
            assert all(e[name] == life[0][name] for e in life)
        assert life[0]["total_cents"] == sum(i["quantity"] * i["unit_price_cents"] for i in life[0]["items"])
        assert 1 <= len(life[0]["items"]) <= 3
    assert sum(len(life) < 3 for life in lives.values()) <= 1
    assert set(ends) == {"PaymentCompleted", "OrderCancelled"}
    assert 0.05 < ends.count("OrderCancelled") / len(ends) < 0.2
    assert {e["currency"] for e in orders} == {"USD", "EUR", "GBP"}


def test_few_products_have_most_of_the_views():
    clicks = by_topic(50_000, seed=1)["clicks"]
    counts = np.sort(pc.value_counts(clicks["product_id"]).field("counts").to_numpy())[::-1]
    assert counts[:10].sum() > 0.3 * counts.sum()
    assert len(counts) > 1000
    # Zipf: on a logarithmic scale popularity falls in a line with the rank.
    slope = np.polyfit(np.log(np.arange(1, 201)), np.log(counts[:200]), 1)[0]
    assert -1.3 < slope < -0.9


def test_times_go_from_the_start_at_the_rate():
    times = by_topic(6000, seed=2, start=1_000 * SECOND, rate=100.0)
    every = np.sort(np.concatenate([t["event_time"].cast(pa.int64()).to_numpy() for t in times.values()]))
    assert every[0] == 1_000 * SECOND
    assert every[-1] == 1_000 * SECOND + 5999 * 10_000


@hypothesis(max_examples=25, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**40), st.floats(0, 1), st.floats(0, 400))
def test_disorder_is_bounded_and_copies_are_exact(n, seed, duplicates, disorder):
    rows = np.concatenate([*arrivals(Shop(n, seed, 0, 50.0, duplicates, disorder))])
    assert (np.diff(rows["arrival"]) >= 0).all()
    originals, copies = rows[~rows["copy"]], rows[rows["copy"]]
    assert sorted(originals["serial"]) == list(range(n))
    assert len(copies) == int(n * duplicates + 1e-6)
    assert ((rows["arrival"] - rows["time"]) <= (disorder + 5) * SECOND).all()
    place = {int(s): i for i, s in enumerate(rows["serial"]) if not rows["copy"][i]}
    for i in np.flatnonzero(rows["copy"]):
        first = place[int(rows["serial"][i])]
        assert first < i
        for name in ("time", "session", "product", "kind"):
            assert rows[name][first] == rows[name][i]


def test_the_judge_finds_nothing_late_below_the_lateness_and_every_copy():
    rules = Rules(600 * SECOND, 3600 * SECOND, 3600 * SECOND)
    shop = by_topic(50_000, seed=9, duplicates=0.03, disorder=500.0)
    applied = duplicate = 0
    for topic, events in shop.items():
        n = events.num_rows
        encoder = Encoder(contract(topic), contract(topic).schema_id)
        sent = np.maximum.accumulate(events["event_time"].cast(pa.int64()).to_numpy()) // 1000
        raw = RawBatch(topic, 0, 0, n, np.arange(n), sent, encoder.keys(events), [*encoder.values(events)])
        judged = Judge(topic, 0, rules).judge(Decoder(topic, FolderRegistry()).decode(raw))
        assert judged.late.num_rows == judged.dead.num_rows == 0
        applied += judged.applied.num_rows
        duplicate += judged.duplicate
    assert (applied, duplicate) == (50_000, 1500)


def test_disorder_beyond_the_lateness_makes_some_late():
    clicks = by_topic(50_000, seed=9, disorder=500.0, rate=100.0)["clicks"]
    times = clicks["event_time"].cast(pa.int64()).to_numpy()
    behind = np.maximum.accumulate(times) - times
    assert 300 * SECOND < behind.max() <= 500 * SECOND


@pytest.mark.parametrize("topic", ["clicks", "orders"])
def test_encoding_is_what_fastavro_writes(topic):
    wanted = contract(topic)
    events = by_topic(5000, seed=4)[topic]
    schema = fastavro.parse_schema({**wanted.schema})
    encoder = Encoder(wanted, wanted.schema_id)
    expected = []
    for event in events.to_pylist():
        stream = io.BytesIO()
        fastavro.schemaless_writer(stream, schema, {**event, "event_time": event["event_time"].replace(tzinfo=UTC)})
        expected.append(b"\0" + wanted.schema_id.to_bytes(4, "big") + stream.getvalue())
    assert encoder.values(events) == expected
    assert encoder.values(events.slice(100, 50)) == encoder.values(events)[100:150]
    assert encoder.keys(events) == [k.encode() for k in events[KEYS[topic]].to_pylist()]
    assert encoder.values(events.slice(0, 0)) == []


def test_a_null_where_none_may_be_is_not_encoded():
    wanted = contract("clicks")
    events = by_topic(10, seed=4)["clicks"]
    holed = events.set_column(3, wanted.arrow.field(3).with_nullable(True), pa.nulls(events.num_rows, pa.string()))
    with pytest.raises(ContractError, match="user_id is required"):
        Encoder(wanted, 2).values(holed)
    with pytest.raises(ContractError, match="not those of topic"):
        Encoder(wanted, 2).values(events.drop_columns(["url"]))


@pytest.mark.parametrize("topic", ["clicks", "orders"])
def test_every_malformed_message_is_a_dead_letter_with_a_reason_of_its_own(topic):
    wanted = contract(topic)
    events = by_topic(5000, seed=4)[topic]
    registry = FolderRegistry()
    encoder = Encoder(wanted, wanted.schema_id)
    for key, value in zip(encoder.keys(events)[:50], encoder.values(events), strict=False):
        bad = list(broken(value))
        n = len(bad)
        raw = RawBatch(topic, 0, 0, n, np.arange(n), np.full(n, -1), [key] * n, bad)
        decoded = Decoder(topic, registry).decode(raw)
        assert decoded.events.num_rows == 0
        assert len(set(decoded.dead["reason"].to_pylist())) == n


@pytest.mark.parametrize("options", [{"events": -1}, {"duplicates": 1.5}, {"disorder": -1.0}, {"topics": ("x",)}])
def test_an_impossible_shop_is_refused(options):
    with pytest.raises(UsageError):
        Shop(**{"events": 1, "seed": 1, "start": 0, **options})


def test_the_command_publishes_what_it_says(tally, messages):
    options = ["--seed", "8", "--duplicates", "0.1", "--disorder", "20", "--malformed", "30"]
    code, out, _ = tally("generate", "--events", "2000", *options)
    assert code == 0
    assert "seed 8: 2000 events, 200 copies, 30 malformed" in out
    found = {t: [m for p in messages(t).values() for m in p] for t in ("orders", "clicks")}
    assert sum(map(len, found.values())) == 2230
    dead = 0
    for topic, rows in found.items():
        assert f"published {len(rows)} messages to {topic}" in out
        n = len(rows)
        raw = RawBatch(topic, 0, 0, n, np.arange(n), np.full(n, -1), [k for k, _ in rows], [v for _, v in rows])
        decoded = Decoder(topic, FolderRegistry()).decode(raw)
        dead += decoded.dead.num_rows
        kept = pa.array([k for k, _ in rows]).take(pa.array(decoded.rows))
        assert kept.cast(pa.string()).to_pylist() == decoded.events[KEYS[topic]].to_pylist()
    assert dead == 30


def test_the_same_seed_and_start_give_the_same_messages(tally, messages, settings):
    tally("generate", "--events", "500", "--seed", "8", "--start", "2026-01-01T00:00:00Z")
    first = messages("orders")
    tally("generate", "--events", "500", "--seed", "8", "--start", "2026-01-01T00:00:00Z")
    assert {p: rows + rows for p, rows in first.items()} == messages("orders")


def test_a_paced_shop_takes_its_time_and_happens_now(tally, messages):
    began = time.time()
    assert tally("generate", "--events", "300", "--rate", "200")[0] == 0
    ended = time.time()
    assert ended - began > 1.4
    rows = [m for p in messages("clicks").values() for m in p]
    n = len(rows)
    raw = RawBatch("clicks", 0, 0, n, np.arange(n), np.full(n, -1), [k for k, _ in rows], [v for _, v in rows])
    times = Decoder("clicks", FolderRegistry()).decode(raw).events["event_time"].cast(pa.int64()).to_numpy() / SECOND
    assert began <= times.min() and times.max() <= ended


def test_a_benchmark_fills_one_topic(settings, messages):
    done = fill(settings, "clicks", 30_000, partitions=2, seed=1)
    assert done.messages == {"clicks": 30_000}
    assert [p for p, rows in messages("clicks").items() if rows] == [0, 1]
