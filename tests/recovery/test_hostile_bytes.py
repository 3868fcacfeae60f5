"""Whatever bytes a producer sends: right rows are kept, the rest is in dead_letters, and the stream lives."""

from __future__ import annotations

import json
import os
import struct
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tallystream.topics.judge import Judge, Rules
from tallystream.topics.publish import send_all
from tallystream.warehouse.control import open_prepared
from tallystream.warehouse.live import live_address
from tests.oracle.avro_rules import HEADER, BrokenRuleError, Walk
from tests.oracle.books import schemas
from tests.oracle.judging import KEYS, Message, judge
from tests.recovery.killed import compare_all, stream, tally
from tests.recovery.shop import Shop, publish
from tests.servers.broker import PATIENCE, until
from tests.topics.messages import T0, click, decoder, order, raw, wire

NOW = int(datetime.now(UTC).timestamp() * 1e6)
YEAR_1, YEAR_9999 = -62_135_596_800_000_000, 253_402_300_799_999_999
SCHEMAS = schemas()
SCHEMA_ID = {"orders": 1, "clicks": 2}
GOOD = {"orders": order(1, event_time=NOW), "clicks": click(1, event_time=NOW)}
TEN_MEGABYTES = 10_000_000


def zigzag(n: int, length: int = 1) -> bytes:
    """An Avro long, made longer by bytes that say nothing until it has `length`."""
    n, out = ((n << 1) ^ (n >> 63)) & (2**64 - 1), []
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    while len(out) < length:
        out[-1] |= 0x80
        out.append(0)
    return bytes(out)


def with_number(topic: str, value: bytes, kind: str, number: bytes, nth: int = 0) -> bytes:
    """The message with its nth varint of a kind replaced."""
    walk = Walk(value, HEADER)
    walk.over(SCHEMAS[SCHEMA_ID[topic]])
    places = [(a, b) for k, a, b in walk.numbers if k == kind]
    a, b = places[nth % len(places)]
    return value[:a] + number + value[b:]


def text(topic: str, **changes: Any) -> bytes:
    """The good event as JSON."""
    return json.dumps(
        {**GOOD[topic], "event_time": f"{datetime.fromtimestamp(NOW // 10**6, UTC):%FT%TZ}", **changes}
    ).encode()


def hostile(topic: str) -> list[tuple[bytes | None, bytes | None]]:
    """(key, value) pairs, all of them dead, under the right key unless it is the key."""
    value = wire(topic, GOOD[topic])
    key = GOOD[topic][KEYS[topic]].encode()
    broken_text = value.replace(GOOD[topic]["event_id"].encode(), b"\xff\xfe", 1)
    amount = {"total_cents": -1} if topic == "orders" else {"price_cents": -1}
    nan = {name: float("nan") for name in amount}
    values = [None, b"", b"\0", value[:-1], value[:5], value[: len(value) // 2], value + b"\0", b"\1" + value[1:]]
    values += [wire(topic, GOOD[topic], schema_id=i) for i in (99, 2**31, 1 if topic == "clicks" else 2)]
    values += [broken_text, b"\0" * 100, b"\xff" * 100, struct.pack("<d", float("nan"))]
    values += [with_number(topic, value, "length", number) for number in (zigzag(-1), zigzag(2**62), zigzag(2, 11))]
    values += [with_number(topic, value, "long", b"\x80" * 10 + b"\0")]
    if topic == "clicks":
        values += [with_number(topic, value, "union", zigzag(branch)) for branch in (-1, -2, 2)]
    values += [text(topic, **amount), text(topic, **nan), text(topic)[:-1], b'{"price": NaN}', b"{}"]
    values += [text(topic, event_time=t) for t in ("0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z")]
    changes = [{"event_time": t} for t in (YEAR_1 - 1, YEAR_9999, YEAR_9999 + 1, 2**63 - 1, -(2**63))]
    values += [wire(topic, GOOD[topic] | change) for change in (*changes, amount, {"event_id": ""})]
    return [*((key, v) for v in values), (None, value), (b"", value), (b"\xff", value)]


def ten_megabytes() -> list[tuple[bytes, bytes]]:
    """One event, and two that are none."""
    event = click(5, event_time=NOW, event_id="large", url="x" * TEN_MEGABYTES)
    good = wire("clicks", event)
    return [(event["user_id"].encode(), v) for v in (good, good[:-1], b"\xff" * TEN_MEGABYTES)]


def test_hostile_bytes_beside_good_events(fresh_topics):
    settings, shop = fresh_topics(2), Shop(21)
    publish(settings, shop, 200)
    dead = 0
    with stream() as running:
        until(lambda: live_address(settings) is not None, "the stream serves nothing")
        for topic in ("orders", "clicks"):
            pairs = hostile(topic)
            assert send_all(settings, topic, pairs) == len(pairs)
            dead += len(pairs)
            # An event like any other, though its time is that of the first year: late.
            first = GOOD[topic] | {"event_time": YEAR_1}
            send_all(settings, topic, [(first[KEYS[topic]].encode(), wire(topic, first))])
        assert send_all(settings, "clicks", ten_megabytes()) == 3
        dead += 2
        # And one that is JSON.
        send_all(settings, "clicks", [(b"u1", text("clicks", event_id="json"))])
        publish(settings, shop, 200)
        assert running.poll() is None
        running.terminate()
        assert running.wait(PATIENCE) == 0
    assert tally("run", "--until-end").returncode == 0
    compare_all(settings)
    with open_prepared(settings) as con:
        reasons = dict(con.execute("SELECT reason, count(*) FROM main.dead_letters GROUP BY ALL").fetchall())
        assert sum(reasons.values()) >= dead
        assert set(reasons) >= EVERY_REASON
        kept = con.execute("SELECT count(*) FROM main.dead_letters WHERE octet_length(value) >= ?", [TEN_MEGABYTES])
        assert kept.fetchone() == (2,)


EVERY_REASON = {
    *("null_value", "truncated", "trailing_bytes", "bad_avro", "invalid_utf8", "not_avro_or_json", "bad_json"),
    *("unknown_schema", "wrong_subject", "missing_field", "null_key", "wrong_key", "time_out_of_range"),
    *("invalid_value", "clock_ahead"),
}


def test_ten_megabytes_are_a_dead_letter_or_an_event_like_any_other(home):
    good = wire("clicks", click(1, url="x" * 10_000_000))
    values = [good, b"\xff" * 10_000_000, good[:-1], b"\0\0\0\0\2" + b"\x80" * 10_000_000]
    out = decoder("clicks").decode(raw("clicks", values, [b"u1"] * 4))
    assert out.events.num_rows == 1
    assert out.dead["offset"].to_pylist() == [1002, 1004, 1006]


@st.composite
def mutated(draw, topic: str) -> tuple[bytes | None, bytes | None]:
    n = draw(st.integers(0, 12))
    event = (order if topic == "orders" else click)(n)
    event["event_time"] = draw(st.sampled_from([T0 + n * 60_000_000, T0, YEAR_1, YEAR_9999, T0 + 10**10]))
    value = bytearray(wire(topic, event) if draw(st.integers(0, 9)) else as_json(event))
    for _ in range(draw(st.integers(0, 3))):
        mutate(draw, topic, value)
    key = event[KEYS[topic]].encode()
    return draw(st.sampled_from([key, key, key, key, None, b"x"])), bytes(value)


def as_json(event: dict[str, Any]) -> bytes:
    time = datetime(1970, 1, 1) + timedelta(microseconds=event["event_time"])
    return json.dumps({**event, "event_time": f"{time.isoformat(timespec='microseconds')}Z"}).encode()


def mutate(draw, topic: str, value: bytearray) -> None:
    """One change at a random place, or of a number where the message, read as its contract says, has one."""
    at = draw(st.integers(0, max(0, len(value) - 1)))
    match draw(st.sampled_from(["flip", "cut", "insert", "double", "number", "number", "pad"])):
        case "flip" if value:
            value[at] ^= 1 << draw(st.integers(0, 7))
        case "cut":
            del value[at:]
        case "insert":
            value[at:at] = draw(st.binary(min_size=1, max_size=3))
        case "double":
            value += value[at:]
        case "number" if places := numbers(topic, value):
            a, b = draw(st.sampled_from(places))
            value[a:b] = zigzag(draw(st.sampled_from([-1, -2, 0, 1, 2, 3, 2**31, 2**63 - 1, -(2**63)])))
        case "pad" if places := numbers(topic, value):
            a, b = draw(st.sampled_from(places))
            more = draw(st.integers(1, 10))
            value[a:b] = value[a : b - 1] + bytes([value[b - 1] | 0x80]) + b"\x80" * (more - 1) + b"\0"
        case _:
            return


def numbers(topic: str, value: bytes) -> list[tuple[int, int]]:
    """Where the varints are, as far as the message can be read."""
    walk = Walk(bytes(value), HEADER)
    with suppress(BrokenRuleError, IndexError):
        walk.over(SCHEMAS[SCHEMA_ID[topic]])
    return [(a, b) for _, a, b in walk.numbers]


EXAMPLES = 5000 if "SOAK_MINUTES" in os.environ else 150


@hypothesis_settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), topic=st.sampled_from(["orders", "clicks"]))
def test_mutated_messages_are_judged_as_by_hand(data, topic):
    pairs = data.draw(st.lists(mutated(topic), min_size=5, max_size=40))
    stamps = [T0 // 1000 + 10**6] * len(pairs)
    batch = raw(topic, [v for _, v in pairs], [k for k, _ in pairs], stamps)
    messages = [Message(1000 + 2 * i, stamps[i], k, v) for i, (k, v) in enumerate(pairs)]
    wanted = judge(messages, SCHEMAS, topic=topic)
    found = Judge(topic, 3, Rules(600 * 10**6, 3600 * 10**6, 3600 * 10**6), None, []).judge(
        decoder(topic).decode(batch)
    )
    assert found.dead["offset"].to_pylist() == wanted.dead
    assert all(found.dead["reason"].to_pylist())
    assert sorted(found.late["offset"].to_pylist()) == wanted.late
    assert found.duplicate == len(wanted.duplicate)
    for name in ("event_id", "event_time", "event_type"):
        assert found.applied[name].to_pylist() == [e[name] for e in wanted.applied]
