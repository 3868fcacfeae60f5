"""Whatever bytes a producer sends: right rows are kept, the rest is in dead_letters, and the stream lives."""

from __future__ import annotations

import struct
from datetime import UTC, datetime

from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tallystream.topics.judge import Judge, Rules
from tallystream.topics.publish import send_all
from tallystream.warehouse.control import open_prepared
from tallystream.warehouse.read import live_address
from tests.oracle.books import schemas
from tests.oracle.judging import Message, judge
from tests.servers.broker import until
from tests.topics.messages import T0, click, decoder, order, raw, wire

from .killed import compare_all, stream, tally
from .shop import Shop, publish

NOW = int(datetime.now(UTC).timestamp() * 1e6)
YEAR_1, YEAR_9999 = -62_135_596_800_000_000, 253_402_300_799_999_999
GOOD = {"orders": order(1, event_time=NOW), "clicks": click(1, event_time=NOW)}


def hostile(topic: str) -> list[tuple[bytes | None, bytes | None]]:
    """(key, value) pairs, all of them dead, under the right key unless it is the key."""
    make, id_name = (order, "order_id") if topic == "orders" else (click, "user_id")
    value = wire(topic, GOOD[topic])
    key = GOOD[topic][id_name].encode()
    broken_text = value.replace(GOOD[topic]["event_id"].encode(), b"\xff\xfe", 1)
    amount = {"total_cents": -1} if topic == "orders" else {"price_cents": -1}
    values = [None, b"", b"\0", value[:-1], value[:5], value[: len(value) // 2], value + b"\0", b"\1" + value[1:]]
    values += [wire(topic, GOOD[topic], schema_id=i) for i in (99, 2**31, 1 if topic == "clicks" else 2)]
    values += [broken_text, b"\0" * 100, b"\xff" * 100, struct.pack("<d", float("nan")), b'{"price": NaN}']
    values += [wire(topic, make(9, event_time=t)) for t in (YEAR_1 - 1, YEAR_9999, YEAR_9999 + 1, 2**63 - 1, -(2**63))]
    values += [wire(topic, make(9, event_time=NOW, **amount))]
    values += [wire(topic, make(9, event_time=NOW, event_id=""))]
    return [*((key, v) for v in values), (None, value), (b"", value), (b"\xff", value)]


def test_hostile_bytes_beside_good_events(fresh_topics):
    settings, shop = fresh_topics(2), Shop(21)
    publish(settings, shop, 200)
    sent = 0
    with stream() as running:
        until(lambda: live_address(settings) is not None, "the stream serves nothing")
        for topic in ("orders", "clicks"):
            pairs = hostile(topic)
            assert send_all(settings, topic, pairs) == len(pairs)
            sent += len(pairs)
        # The largest that the contract allows and the brokers' own limit.
        for text in ("x" * 900_000, "\0" * 1000):
            big = click(5, event_time=NOW, event_id=f"big{len(text)}", url=text)
            send_all(settings, "clicks", [(big["user_id"].encode(), wire("clicks", big))])
        publish(settings, shop, 200)
        assert running.poll() is None
        running.terminate()
        assert running.wait(40) == 0
    assert tally("run", "--until-end").returncode == 0
    compare_all(settings)
    with open_prepared(settings) as con:
        reasons = con.execute("SELECT reason, count(*) FROM main.dead_letters GROUP BY ALL").fetchall()
        assert sum(n for _, n in reasons) >= sent
        assert all(reason for reason, _ in reasons)
        assert len(reasons) >= 5, reasons


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
    value = bytearray(wire(topic, event))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(0, len(value) - 1)))
        match draw(st.sampled_from(["flip", "cut", "insert", "double"])):
            case "flip" if value:
                value[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del value[at:]
            case "insert":
                value[at:at] = draw(st.binary(min_size=1, max_size=3))
            case _:
                value += value[at:]
    key = event["order_id" if topic == "orders" else "user_id"].encode()
    return draw(st.sampled_from([key, key, key, key, None, b"x"])), bytes(value)


@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), topic=st.sampled_from(["orders", "clicks"]))
def test_mutated_messages_are_judged_as_by_hand(data, topic):
    pairs = data.draw(st.lists(mutated(topic), min_size=1, max_size=40))
    stamps = [T0 // 1000 + 10**6] * len(pairs)
    batch = raw(topic, [v for _, v in pairs], [k for k, _ in pairs], stamps)
    messages = [Message(1000 + 2 * i, stamps[i], k, v) for i, (k, v) in enumerate(pairs)]
    wanted = judge(messages, schemas())
    found = Judge(topic, 3, Rules(600 * 10**6, 3600 * 10**6, 3600 * 10**6), None, []).judge(
        decoder(topic).decode(batch)
    )
    assert found.dead["offset"].to_pylist() == wanted.dead
    assert sorted(found.late["offset"].to_pylist()) == wanted.late
    assert found.duplicate == len(wanted.duplicate)
    for name in ("event_id", "event_time", "event_type"):
        assert found.applied[name].to_pylist() == [e[name] for e in wanted.applied]
