"""A file is published whole, in its order, or not at all."""

import gzip
import hashlib
import io
import json

import fastavro
import pytest

from tallystream.topics.client import ensure_topics, topic_logs
from tallystream.topics.contracts import KEYS, contract
from tallystream.topics.registry import FolderRegistry

CLICK = {"event_id": "c1", "event_type": "view", "event_time": "2024-02-29T23:59:59.5Z", "user_id": "u1"}
ORDER = {
    "event_id": "o1",
    "event_type": "OrderCreated",
    "event_time": "1969-12-31T23:59:59.999999Z",
    "order_id": "order",
    "customer_id": "u1",
    "items": [{"product_id": "p1", "quantity": 2, "unit_price_cents": 150}],
    "total_cents": 300,
    "currency": "EUR",
}


def write(path, *lines) -> str:
    texts = [line if isinstance(line, (str, bytes)) else json.dumps(line) for line in lines]
    path.write_bytes(b"".join((t.encode() if isinstance(t, str) else t) + b"\n" for t in texts))
    return str(path)


def read_back(topic: str, value: bytes) -> dict:
    """What an independent reader finds in a message."""
    assert value[:1] == b"\0"
    schema = fastavro.parse_schema(FolderRegistry().schema(int.from_bytes(value[1:5], "big")))
    stream = io.BytesIO(value[5:])
    event = fastavro.schemaless_reader(stream, schema, None)
    assert stream.read() == b""
    return event


def nothing_in(settings) -> bool:
    return all(r == (0, 0) for _, ranges in topic_logs(settings).values() for r in ranges.values())


def test_events_arrive_as_written_with_their_keys(tally, messages, tmp_path):
    assert tally("produce", write(tmp_path / "c", CLICK), "--topic", "clicks")[:2] == (
        0,
        "published 1 events to clicks\n",
    )
    assert tally("produce", write(tmp_path / "o", ORDER), "--topic", "orders")[:2] == (
        0,
        "published 1 events to orders\n",
    )
    ((key, value),) = [m for p in messages("clicks").values() for m in p]
    event = read_back("clicks", value)
    assert key == b"u1"
    assert event["event_time"].isoformat() == "2024-02-29T23:59:59.500000+00:00"
    assert {k for k, v in event.items() if v is None} == set(contract("clicks").arrow.names) - set(CLICK)
    ((key, value),) = [m for p in messages("orders").values() for m in p]
    event = read_back("orders", value)
    assert key == b"order"
    assert event["event_time"].isoformat() == "1969-12-31T23:59:59.999999+00:00"
    assert {**event, "event_time": ORDER["event_time"]} == ORDER


def test_a_key_stays_in_one_partition_in_the_order_of_the_file(tally, messages, tmp_path):
    lines = [{**CLICK, "event_id": f"{i}", "user_id": f"u{i % 17}"} for i in range(20_000)]
    assert tally("produce", write(tmp_path / "c", *lines), "--topic", "clicks")[0] == 0
    found = messages("clicks")
    partition_of: dict[bytes, int] = {}
    for partition, rows in found.items():
        ids = [int(read_back("clicks", value)["event_id"]) for _, value in rows]
        assert ids == sorted(ids)
        for key, _ in rows:
            assert partition_of.setdefault(key, partition) == partition
    assert sum(map(len, found.values())) == 20_000
    assert len({partition_of[k] for k in partition_of}) > 1


def murmur2(data: bytes) -> int:
    """The partitioner of Apache Kafka's Java clients, from its description."""
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    h = 0x9747B28C ^ len(data)
    for i in range(0, len(data) - len(data) % 4, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        h = (h * m & mask) ^ ((k ^ (k >> 24)) * m & mask)
    tail = data[len(data) - len(data) % 4 :]
    if tail:
        h = (h ^ int.from_bytes(tail, "little")) * m & mask
    h = (h ^ (h >> 13)) * m & mask
    return h ^ (h >> 15)


def test_partitions_are_those_that_java_clients_choose(tally, messages, tmp_path):
    lines = [{**CLICK, "event_id": str(i), "user_id": "u" * (i % 9) + str(i)} for i in range(50)]
    tally("produce", write(tmp_path / "c", *lines), "--topic", "clicks")
    for partition, rows in messages("clicks").items():
        assert all((murmur2(key) & 0x7FFFFFFF) % 4 == partition for key, _ in rows)


@pytest.mark.parametrize(
    ("topic", "line", "reason"),
    [
        ("clicks", "not json", "Expecting value"),
        ("clicks", "[]", "not a JSON object"),
        ("clicks", {**CLICK, "colour": "red"}, "unknown field colour"),
        ("clicks", {k: v for k, v in CLICK.items() if k != "user_id"}, "user_id is missing"),
        ("clicks", {**CLICK, "user_id": None}, "user_id is missing or null"),
        ("clicks", {**CLICK, "user_id": ""}, "user_id is empty"),
        ("clicks", {**CLICK, "event_id": ""}, "event_id is empty"),
        ("clicks", {**CLICK, "event_id": 7}, "event_id"),
        ("clicks", {**CLICK, "price_cents": 1.0}, "price_cents"),
        ("clicks", {**CLICK, "price_cents": True}, "price_cents"),
        ("clicks", {**CLICK, "price_cents": 2**63}, "price_cents"),
        ("clicks", {**CLICK, "event_time": 1}, "event_time"),
        ("clicks", {**CLICK, "event_time": "2024-02-29T00:00:00"}, "event_time"),
        ("clicks", {**CLICK, "event_time": "2024-02-29T00:00:00+00:00"}, "event_time"),
        ("clicks", {**CLICK, "event_time": "2024-02-29T00:00:00.1234567Z"}, "event_time"),
        ("clicks", {**CLICK, "event_time": "2023-02-29T00:00:00Z"}, "2023-02-29"),
        ("clicks", b'{"event_id": "\xff"}', "utf-8"),
        ("clicks", "[" * 100_000, ""),
        ("clicks", {**CLICK, "url": "x" * 1_000_001}, "longer than"),
        ("clicks", '{"event_id": "a", "price_cents": NaN}', "NaN"),
        ("orders", {**ORDER, "event_type": "OrderLost"}, "OrderLost"),
        ("orders", {**ORDER, "items": []}, "items"),
        ("orders", {**ORDER, "items": [{"product_id": "p", "quantity": 1}]}, "items"),
        ("orders", {**ORDER, "items": [{**ORDER["items"][0], "quantity": "2"}]}, "quantity"),
        ("orders", {**ORDER, "total_cents": 301}, "301"),
        ("orders", {**ORDER, "currency": None}, "currency"),
    ],
)
def test_an_invalid_line_is_named_and_nothing_is_published(tally, settings, tmp_path, topic, line, reason):
    good = CLICK if topic == "clicks" else ORDER
    code, out, err = tally("produce", write(tmp_path / "f", good, line, good), "--topic", topic)
    assert (code, out) == (1, "")
    assert "line 2:" in err
    assert "line 1:" not in err and "line 3:" not in err
    assert "nothing was published" in err
    assert "Traceback" not in err
    assert reason in " ".join(err.split())
    assert nothing_in(settings)


def test_many_invalid_lines_are_counted_and_the_first_twenty_named(tally, tmp_path):
    code, _, err = tally("produce", write(tmp_path / "f", *["x"] * 57), "--topic", "clicks")
    assert code == 1
    assert "57 lines are invalid" in err
    assert [f"line {i}:" in err for i in (1, 20, 21)] == [True, True, False]
    assert "37 more" in err


def test_blank_lines_are_passed_over_and_an_end_is_not_needed(tally, tmp_path):
    path = tmp_path / "f"
    path.write_text(f"\n{json.dumps(CLICK)}\r\n\n  \n{json.dumps(CLICK)}")
    assert tally("produce", str(path), "--topic", "clicks")[:2] == (0, "published 2 events to clicks\n")


def test_an_empty_file_holds_no_events(tally, tmp_path):
    assert tally("produce", write(tmp_path / "f"), "--topic", "clicks")[:2] == (0, "published 0 events to clicks\n")


def test_what_cannot_be_read_is_a_sentence(tally, tmp_path):
    code, _, err = tally("produce", str(tmp_path / "none"), "--topic", "clicks")
    assert code == 1 and "No such file" in err
    code, _, err = tally("produce", str(tmp_path), "--topic", "clicks")
    assert code == 1 and "directory" in err


def test_compressed_ndjson_is_read_and_a_cut_one_refused(tally, settings, tmp_path):
    lines = [json.dumps({**CLICK, "event_id": str(i)}) for i in range(1000)]
    packed = gzip.compress("".join(line + "\n" for line in lines).encode())
    (tmp_path / "f.gz").write_bytes(packed[: len(packed) // 2])
    code, _, err = tally("produce", str(tmp_path / "f.gz"), "--topic", "clicks")
    assert code == 1 and "cut or damaged in line" in err
    damaged = bytearray(packed)
    damaged[-6] ^= 1
    (tmp_path / "f.gz").write_bytes(damaged)
    code, _, err = tally("produce", str(tmp_path / "f.gz"), "--topic", "clicks")
    assert code == 1 and "cut or damaged" in err
    assert nothing_in(settings)
    (tmp_path / "f.gz").write_bytes(packed)
    assert tally("produce", str(tmp_path / "f.gz"), "--topic", "clicks")[:2] == (0, "published 1000 events to clicks\n")


HEADER = "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\r\n"
LINE = "2019-10-01 00:00:00 UTC,view,44600062,2103807459595387724,,shiseido,35.79,541312140,72d76fde\r\n"


def csv(tmp_path, *lines: str) -> str:
    (tmp_path / "f.csv.gz").write_bytes(gzip.compress((HEADER + "".join(lines)).encode()))
    return str(tmp_path / "f.csv.gz")


def test_rees46_lines_are_clicks_or_orders(tally, messages, tmp_path):
    path = csv(tmp_path, LINE, LINE.replace("view", "purchase").replace("35.79", "0.29"), LINE.replace("view", "cart"))
    assert tally("produce", path, "--topic", "clicks")[:2] == (0, "published 2 events to clicks\n")
    assert tally("produce", path, "--topic", "orders")[:2] == (0, "published 1 events to orders\n")
    ((_, value),) = [m for p in messages("orders").values() for m in p]
    event = read_back("orders", value)
    assert event["event_id"] == event["order_id"] == "rees46-2"
    assert event["items"] == [{"product_id": "44600062", "quantity": 1, "unit_price_cents": 29}]
    assert (event["total_cents"], event["currency"], event["customer_id"]) == (29, "USD", "541312140")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (LINE.replace("view", "look"), "look"),
        (LINE.replace("view", "purchase").replace("35.79", "35.791"), "whole cents"),
        (LINE.replace("35.79", "-1.00"), "price"),
        (LINE.replace("35.79", "1e3"), "price"),
        (LINE.replace("35.79", ""), "price"),
        (LINE.replace(" UTC", ""), "event_time"),
        (LINE.replace("10-01", "13-01"), "month"),
        (LINE.replace("541312140", ""), "user_id is empty"),
        (LINE.replace("\r\n", ",more\r\n"), "10 fields"),
        (LINE[:-20], "cut"),
        (LINE[:-1], "cut"),
        (LINE[:30], "cut"),
    ],
)
def test_an_invalid_rees46_line_is_named_by_its_number_without_the_header(tally, settings, tmp_path, line, reason):
    code, out, err = tally("produce", csv(tmp_path, LINE, LINE, line), "--topic", "clicks")
    assert (code, out) == (1, "")
    assert "line 3:" in err and reason in err and "line 2" not in err
    assert nothing_in(settings)


def test_another_csv_is_refused(tally, tmp_path):
    (tmp_path / "f.csv").write_text("a,b\n1,2\n")
    code, _, err = tally("produce", str(tmp_path / "f.csv"), "--topic", "clicks")
    assert code == 1 and "header" in err


def _plain(event: dict) -> list:
    at = event["event_time"].strftime("%Y-%m-%dT%H:%M:%SZ")
    return [at if name == "event_time" else value for name, value in event.items()]


@pytest.mark.parametrize("topic", ["clicks", "orders"])
def test_the_real_file_gives_the_known_events_in_order(tally, messages, shared, topic):
    expected = json.loads((shared / "data" / "rees46_expected.json").read_text())["topics"][topic]
    code, _, _ = tally("produce", str(shared / "data" / "rees46-2019-10-01.csv.gz"), "--topic", topic)
    assert code == 0
    rows, found = [], messages(topic)
    for partition in found.values():
        events = [read_back(topic, value) for _, value in partition]
        numbers = [int(e["event_id"].removeprefix("rees46-")) for e in events]
        assert numbers == sorted(numbers)
        assert [key.decode() for key, _ in partition] == [e[KEYS[topic]] for e in events]
        rows += zip(numbers, map(_plain, events), strict=True)
    text = "".join(json.dumps(r, separators=(",", ":"), ensure_ascii=False) + "\n" for _, r in sorted(rows))
    assert len(rows) == expected["events"]
    assert hashlib.sha256(text.encode()).hexdigest() == expected["checksum"]


@pytest.mark.parametrize("keep", [0.0001, 0.5, 0.999, 0.99999])
def test_the_real_file_cut_anywhere_is_refused_whole(tally, settings, shared, tmp_path, keep):
    whole = (shared / "data" / "rees46-2019-10-01.csv.gz").read_bytes()
    (tmp_path / "cut.csv.gz").write_bytes(whole[: int(len(whole) * keep)])
    code, _, err = tally("produce", str(tmp_path / "cut.csv.gz"), "--topic", "clicks")
    assert code == 1 and "in line " in err
    assert nothing_in(settings)


def test_what_is_not_delivered_is_counted_and_reported(tally, settings, tmp_path, monkeypatch):
    # The topic is there when it is asked for, and the broker gone when the messages leave.
    from tallystream.topics import publish

    ensure_topics(settings, ["clicks"])
    monkeypatch.setitem(publish.PRODUCER, "message.timeout.ms", "1")
    monkeypatch.setitem(publish.PRODUCER, "linger.ms", "0")
    monkeypatch.setattr(publish, "kafka_config", lambda s: {"bootstrap.servers": "127.0.0.1:1", "log_level": "0"})
    code, out, err = tally("produce", write(tmp_path / "f", CLICK, CLICK), "--topic", "clicks")
    assert (code, out) == (1, "")
    assert "of 2 messages sent, 2 were not delivered" in " ".join(err.split())
