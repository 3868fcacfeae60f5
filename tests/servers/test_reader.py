"""PartitionReader: every message of [position, until) once, in order, whatever the broker does meanwhile."""

import socket
import time
from contextlib import closing

import pytest

from tallystream.errors import BrokerError
from tallystream.settings import Settings
from tallystream.topics import reader as module
from tallystream.topics.client import log_range
from tallystream.topics.publish import send_all
from tests.servers.reading import drain, open_reader, read_to, rows


def publish(settings: Settings, n: int, start: int = 0, topic: str = "clicks") -> list[tuple[int, bytes, bytes]]:
    """`n` numbered messages; as a reader must give them back when the topic has one partition."""
    messages = [(b"k%d" % i, b"v%d" % i) for i in range(start, start + n)]
    assert send_all(settings, topic, messages) == n
    return [(start + i, k, v) for i, (k, v) in enumerate(messages)]


@pytest.fixture
def one(fresh_topics) -> Settings:
    return fresh_topics(1)


def test_a_bounded_read_gives_every_message_once_in_order(one):
    sent = publish(one, 5000)
    assert read_to(one, "clicks", 0, 5000) == sent
    assert read_to(one, "clicks", 4999, 5000) == sent[4999:]


def test_each_partition_is_read_by_itself(fresh_topics):
    settings = fresh_topics(3)
    messages = [(b"k%d" % i, b"v%d" % i) for i in range(300)]
    send_all(settings, "orders", messages)
    ranges = log_range(settings, "orders", 3)
    seen = [m for p, (low, high) in ranges.items() for m in read_to(settings, "orders", low, high, p)]
    assert sorted((k, v) for _, k, v in seen) == sorted(messages)


def test_what_arrives_after_the_end_was_fixed_is_left(one):
    sent = publish(one, 1000)
    with closing(open_reader(one, "clicks", until=1000)) as reader:
        publish(one, 1000, start=1000)
        assert drain(reader) == sent
        assert reader.position == 1000


@pytest.mark.parametrize("stop", [1, 499, 500, 501, 2999])
def test_a_stop_on_the_way_loses_and_repeats_nothing(one, stop):
    sent = publish(one, 3000)
    with closing(open_reader(one, "clicks", until=3000)) as reader:
        assert drain(reader, stop_at=stop) == sent[:stop]
        assert not reader.done
        assert drain(reader) == sent[stop:]


def test_an_empty_range_is_done_before_it_is_read(one):
    publish(one, 10)
    with closing(open_reader(one, "clicks", position=7, until=7)) as reader:
        assert reader.done
        assert reader.read() is None


def test_a_follower_sees_what_comes_and_waits_for_nothing(one):
    with closing(open_reader(one, "clicks")) as reader:
        started = time.monotonic()
        assert reader.read() is None
        assert time.monotonic() - started < 2
        for i in range(5):
            sent = publish(one, 20, start=20 * i)
            assert drain(reader, lambda seen: len(seen) >= 20) == sent
        assert not reader.done


def test_keys_values_and_times_are_as_published(one):
    before = time.time() * 1000
    send_all(one, "clicks", [(None, b"v"), (b"", b""), (b"k", None), (b"\xff\0", b"\0" * 3_000_000)])
    with closing(open_reader(one, "clicks", until=4)) as reader:
        batch, seen = None, []
        while not reader.done:
            batch = reader.read()
            if batch is not None:
                seen += rows(batch)
                assert all(before - 1000 < t < time.time() * 1000 + 1000 for t in batch.timestamps)
    assert [(k, v) for _, k, v in seen] == [(None, b"v"), (b"", b""), (b"k", None), (b"\xff\0", b"\0" * 3_000_000)]


def test_a_batch_is_bounded_by_messages_and_by_bytes(one, monkeypatch):
    send_all(one, "clicks", [(b"k", bytes(10_000))] * 4000)
    monkeypatch.setattr(module, "MAX_MESSAGES", 1000)
    monkeypatch.setattr(module, "MAX_BYTES", 2_000_000)
    monkeypatch.setattr(module, "GATHER", 50)
    sizes, reader = [], open_reader(one, "clicks", until=4000)
    with closing(reader):
        while not reader.done:
            batch = reader.read()
            if batch is not None:
                sizes.append(len(batch.values))
    assert sum(sizes) == 4000
    assert 1 < max(sizes) <= 250  # two megabytes, and one more call


@pytest.mark.parametrize("position", [11, 10_000])
def test_a_position_beyond_the_log_is_an_error_not_a_jump(one, position):
    publish(one, 10)
    with (
        closing(open_reader(one, "clicks", position=position)) as reader,
        pytest.raises(BrokerError, match=f"clicks/0 at offset {position}"),
    ):
        drain(reader)


@pytest.mark.parametrize(("topic", "partition"), [("clicks", 1), ("nothing", 0)])
def test_a_partition_that_is_not_there_is_an_error(one, topic, partition):
    with (
        closing(open_reader(one, topic, partition)) as reader,
        pytest.raises(BrokerError, match=f"{topic}/{partition}"),
    ):
        drain(reader)


def test_a_broker_that_restarts_is_waited_for(broker, one):
    sent = publish(one, 2000)
    with closing(open_reader(one, "clicks")) as reader:
        assert drain(reader, lambda seen: len(seen) >= 2000) == sent
        broker.stop()
        for _ in range(20):
            assert reader.read() is None
        broker.restart()
        sent = publish(one, 2000, start=2000)
        assert drain(reader, lambda seen: len(seen) >= 2000) == sent


def test_a_broker_that_is_not_there_yet_is_waited_for(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        nobody = f"127.0.0.1:{server.getsockname()[1]}"
    away = Settings(home=tmp_path, bootstrap_servers=nobody)
    with closing(open_reader(away, "clicks", until=5)) as reader:
        for _ in range(20):
            assert reader.read() is None
        assert (reader.position, reader.done) == (0, False)
