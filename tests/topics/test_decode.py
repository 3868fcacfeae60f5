"""Decode: what was written is what is read, and each rule of the contract has its reason."""

import json

import httpx
import numpy as np
import pyarrow as pa
import pytest
from messages import MAKE, Schemas, changed, click, decoder, order, raw, raw_of, reasons, table, wire

from tallystream.topics.avro_reader import CHUNK
from tallystream.topics.batch import DEAD_SCHEMA
from tallystream.topics.contracts import contract
from tallystream.topics.decode import Decoder

NEW = 77


@pytest.mark.parametrize("topic", ["clicks", "orders"])
@pytest.mark.parametrize("n", [1, 3, CHUNK, 2 * CHUNK + 5])
def test_what_was_written_is_read(topic, n):
    events = [MAKE[topic](i) for i in range(n)]
    out = decoder(topic).decode(raw_of(topic, events))
    assert out.events.schema == contract(topic).arrow
    assert out.events.equals(table(topic, events))
    assert out.rows.tolist() == list(range(n))
    assert out.dead.num_rows == 0 and out.dead.schema == DEAD_SCHEMA
    assert out.schema_ids == (contract(topic).schema_id,)


def test_an_empty_batch():
    out = decoder("orders").decode(raw("orders", [], []))
    assert (out.events.num_rows, out.dead.num_rows, out.schema_ids) == (0, 0, ())
    assert out.events.schema == contract("orders").arrow


def test_bad_ones_are_found_among_good_ones_and_both_stay_in_log_order():
    n = CHUNK + 500
    batch = raw_of("clicks", [click(i) for i in range(n)])
    batch.timestamps = np.arange(n) * 1000
    bad = {
        0: "truncated",
        17: "trailing_bytes",
        18: "null_value",
        900: "truncated",
        CHUNK: "not_avro_or_json",
        n - 1: "trailing_bytes",
    }
    for i, reason in bad.items():
        good = batch.values[i]
        batch.values[i] = {"truncated": good[:-3], "trailing_bytes": good + b"\0", "null_value": None}.get(reason, b"?")
    batch.values[40] = json.dumps(click(40) | {"event_time": "2019-10-02T07:06:40.04Z"}).encode()
    out = decoder("clicks").decode(batch)
    assert (
        dict(zip(((out.dead["offset"].to_numpy() - 1000) // 2).tolist(), out.dead["reason"].to_pylist(), strict=True))
        == bad
    )
    assert out.dead["offset"].to_pylist() == sorted(out.dead["offset"].to_pylist())
    assert out.dead["value"].to_pylist()[2] is None
    assert out.dead["value"].to_pylist()[1] == batch.values[17]
    assert out.dead["record_time"].cast(pa.int64()).to_pylist()[1] == 17 * 1_000_000
    kept = [i for i in range(n) if i not in bad]
    assert out.rows.tolist() == kept
    assert out.events.equals(table("clicks", [click(i) for i in kept]))


def test_two_writer_schemas_and_json_in_one_batch_keep_the_log_order():
    newer = changed("clicks", lambda f: f.insert(2, {"name": "device", "type": ["null", "string"], "default": None}))
    events = [click(i) for i in range(60)]
    values = []
    for i, e in enumerate(events):
        text = json.dumps({**e, "event_time": f"2019-10-02T07:06:40.{i:03}Z", "device": {"new": [1]}}).encode()
        values.append([wire("clicks", e), wire("clicks", e | {"device": "phone"}, newer, NEW), text][i % 3])
    batch = raw("clicks", values, [e["user_id"].encode() for e in events])
    out = decoder("clicks", {NEW: newer}).decode(batch)
    assert out.dead.num_rows == 0, out.dead.to_pylist()[:1]
    assert out.events.equals(table("clicks", events))
    assert out.schema_ids == (2, NEW)


@pytest.mark.parametrize(
    ("topic", "event", "reason"),
    [
        ("clicks", click(event_id=""), "invalid_value"),
        ("clicks", click(event_type=""), "invalid_value"),
        ("clicks", click(price_cents=-1), "invalid_value"),
        ("orders", order(event_type="OrderEaten"), "invalid_value"),
        ("orders", order(total_cents=-1), "invalid_value"),
        ("orders", order(items=[{"product_id": "p", "quantity": -1, "unit_price_cents": 1}]), "invalid_value"),
        ("orders", order(items=[{"product_id": "p", "quantity": 1, "unit_price_cents": -5}]), "invalid_value"),
        ("clicks", click(event_time=253_402_300_800_000_000), "time_out_of_range"),
        ("clicks", click(event_time=-62_135_596_800_000_001), "time_out_of_range"),
        ("clicks", click(event_time=2**63 - 1), "time_out_of_range"),
        ("clicks", click(event_time=253_402_300_799_999_999), None),
        ("clicks", click(event_time=-62_135_596_800_000_000), None),
        ("orders", order(total_cents=2**63 - 1), None),
        ("clicks", click(event_id="\0", user_id="\U0001f600"), None),
    ],
)
def test_the_rules_beyond_avro(topic, event, reason):
    assert reasons(topic, event) == ([reason] if reason else [])


def test_an_empty_key_field_is_no_key():
    assert reasons("clicks", wire("clicks", click(user_id="")), key=b"") == ["invalid_value"]


@pytest.mark.parametrize(
    ("key", "reason"), [(b"u1", "wrong_key"), (b"", "wrong_key"), (b"\xff", "wrong_key"), (b"u0", None)]
)
def test_the_message_key_is_the_key_field(key, reason):
    assert reasons("clicks", click(), key=key) == ([reason] if reason else [])


def test_a_null_key():
    out = decoder("clicks").decode(raw("clicks", [wire("clicks", click())] * 2, [None, b"u0"]))
    assert out.dead["reason"].to_pylist() == ["null_key"]
    assert out.rows.tolist() == [1]


def test_the_schema_of_another_topic():
    assert reasons("clicks", wire("orders", order())) == ["wrong_subject"]


def test_an_unknown_schema_is_asked_for_once():
    registry = Schemas("clicks", {})
    d = Decoder("clicks", registry)
    for _ in range(3):
        out = d.decode(raw("clicks", [b"\0\0\0\0\x63abc"] * 4, [b"k"] * 4))
        assert out.dead["reason"].to_pylist() == ["unknown_schema"] * 4
    assert registry.asked == [99]


def test_a_registry_that_does_not_answer_makes_no_dead_letters():
    d = decoder("clicks", {NEW: httpx.ConnectError("down")})
    with pytest.raises(httpx.ConnectError):
        d.decode(raw_of("clicks", [click()], schema_id=NEW))


GOOD = {"event_id": "e", "event_type": "view", "event_time": "2019-10-01T00:00:00.5Z", "user_id": "u0"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (json.dumps(GOOD), None),
        (json.dumps(GOOD | {"stranger": {"deep": []}}), None),
        (json.dumps(GOOD | {"price_cents": 5}) + " \n", None),
        (json.dumps(GOOD | {"price_cents": -5}), "invalid_value"),
        (json.dumps(GOOD | {"price_cents": 5.0}), "invalid_value"),
        (json.dumps(GOOD | {"price_cents": True}), "invalid_value"),
        (json.dumps(GOOD | {"price_cents": 2**63}), "invalid_value"),
        (json.dumps(GOOD | {"price_cents": float("nan")}), "bad_json"),
        (json.dumps(GOOD | {"price_cents": float("inf")}), "bad_json"),
        (json.dumps(GOOD)[:-1] + ', "price_cents": ' + "9" * 5000 + "}", "bad_json"),
        (json.dumps(GOOD)[:-1], "bad_json"),
        (json.dumps(GOOD) + "{}", "bad_json"),
        ("{" + '"a":{' * 100_000, "bad_json"),
        ('{"a":' + "[" * 100_000, "bad_json"),
        (json.dumps(GOOD | {"user_id": None}), "missing_field"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "event_id"}), "missing_field"),
        (json.dumps(GOOD | {"brand": "\ud800"}), "invalid_utf8"),
        (json.dumps(GOOD).encode()[:-1] + b', "brand": "\xff"}', "invalid_utf8"),
        (json.dumps(GOOD).encode("utf-16-le"), "bad_json"),
        (json.dumps(GOOD | {"event_time": "2019-10-01T00:00:00"}), "invalid_value"),
        (json.dumps(GOOD | {"event_time": "2019-02-29T00:00:00Z"}), "invalid_value"),
        (json.dumps(GOOD | {"event_time": "0000-01-01T00:00:00Z"}), "invalid_value"),
        (json.dumps(GOOD | {"event_time": "\u0662019-10-01T00:00:00Z"}), "invalid_value"),
        (json.dumps(GOOD | {"event_time": 1570000000}), "invalid_value"),
        (json.dumps(GOOD | {"event_time": "0001-01-01T00:00:00Z"}), None),
        (json.dumps(GOOD | {"event_time": "9999-12-31T23:59:59.999999Z"}), None),
        (json.dumps(GOOD | {"user_id": "u1"}), "wrong_key"),
    ],
)
def test_json(text, reason):
    value = text.encode() if isinstance(text, str) else text
    assert reasons("clicks", value, key=b"u0") == ([reason] if reason else [])


def test_json_orders_read_like_avro():
    events = [order(i) for i in range(8)]
    text = [json.dumps(e | {"event_time": f"2019-10-02T07:06:40.{i:03}Z"}).encode() for i, e in enumerate(events)]
    out = decoder("orders").decode(raw("orders", text, [e["order_id"].encode() for e in events]))
    assert out.events.equals(table("orders", events))


def test_json_items_may_have_new_fields_but_none_missing():
    item = {"product_id": "p", "quantity": 1, "unit_price_cents": 1}
    body = order(0, items=[item | {"gift": True}]) | {"event_time": "2019-10-02T07:06:40Z"}
    assert reasons("orders", json.dumps(body).encode(), key=b"n0") == []
    del body["items"][0]["quantity"]
    assert reasons("orders", json.dumps(body).encode(), key=b"n0") == ["missing_field"]
