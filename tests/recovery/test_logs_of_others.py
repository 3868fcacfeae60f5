"""Logs as other producers and brokers leave them: transactions, compressed batches, offsets that hold no event."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic

from tallystream.settings import TOPICS, Settings
from tallystream.topics.client import admin, kafka_config, topic_logs
from tallystream.warehouse.control import open_prepared
from tests.oracle.books import read_log
from tests.servers.broker import PATIENCE, until

from .killed import compare_all, tally
from .shop import Pairs, Shop, publish

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")


def producer(settings: Settings, **options: str) -> Producer:
    return Producer({**kafka_config(settings), "partitioner": "murmur2", "linger.ms": "50", **options})


def send(to: Producer, batch: dict[str, Pairs]) -> int:
    """Everything in the log, though perhaps not committed."""
    for topic, pairs in batch.items():
        for key, value in pairs:
            to.produce(topic, value, key)
    assert to.flush(PATIENCE) == 0
    return sum(map(len, batch.values()))


def transactional(settings: Settings, name: str) -> Producer:
    made = producer(settings, **{"transactional.id": name})
    made.init_transactions(PATIENCE)
    return made


@contextmanager
def ending(transactions: Producer, how: str) -> Iterator[None]:
    """A transaction, and its end."""
    transactions.begin_transaction()
    yield
    (transactions.commit_transaction if how == "commit" else transactions.abort_transaction)(PATIENCE)


def consumed(settings: Settings) -> int:
    with open_prepared(settings) as con:
        (found,) = con.execute("SELECT sum(consumed)::BIGINT FROM ledger.offsets").fetchone() or (None,)
        return int(found)


def run(settings: Settings, messages: int) -> None:
    """Tallies to the end: so many messages in all, as the books say."""
    ran = tally("run", "--until-end")
    assert ran.returncode == 0, ran.stderr
    assert consumed(settings) == messages
    compare_all(settings)


def test_what_is_committed_is_tallied_and_nothing_else(fresh_topics, broker):
    settings, shop = fresh_topics(2), Shop(41)
    committing = transactional(settings, "committing")
    # The embedded broker goes on telling of an aborted transaction after its end: whoever begins to read behind it
    # misses what the same producer committed since (docs/operating.md).
    aborting = committing if broker.name == "kafka" else transactional(settings, "aborting")
    told = 0
    for _ in range(2):
        with ending(committing, "commit"):
            told += send(committing, shop.batch(60))
        with ending(aborting, "abort"):
            send(aborting, shop.batch(60))
    told += publish(settings, shop, 40)
    another = transactional(settings, "another")
    with ending(committing, "commit"), ending(another, "abort"):
        in_doubt = send(committing, shop.batch(60))
        send(another, shop.batch(60))
        # Committed, and behind open ones: a reader may not see them yet.
        behind = publish(settings, shop, 30)
        run(settings, told)
    told += behind + in_doubt
    until(lambda: sum(len(m) for t in TOPICS for m in read_log(settings, t).values()) == told, "it is not visible yet")
    run(settings, told)
    ends = {(t, p): high for t, (_, by) in topic_logs(settings).items() for p, (_, high) in by.items()}
    with open_prepared(settings) as con:
        rows = con.execute("SELECT topic, partition, next_offset, consumed FROM ledger.offsets").fetchall()
    assert {(t, p): position for t, p, position, _ in rows} == ends
    # The markers are no messages: offsets count them.
    assert all(position > count for _, _, position, count in rows)


def test_batches_of_every_codec_in_one_log(fresh_topics, broker):
    settings, shop = fresh_topics(2), Shop(42)
    for codec in CODECS:
        to = producer(settings, **{"compression.type": codec})
        assert send(to, shop.batch(200)) == 200
    if broker.name == "kafka":
        assert {c for t in TOPICS for c in codecs_in(broker.data / f"{t}-0")} == set(range(len(CODECS)))
    run(settings, 200 * len(CODECS))


def codecs_in(partition: Path) -> Iterator[int]:
    """The codec of each record batch in the files of a partition: the lowest bits of its attributes."""
    for segment in partition.glob("*.log"):
        data, at = segment.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from(">i", data, at + 8)
            yield struct.unpack_from(">h", data, at + 21)[0] & 7
            at += 12 + length


@pytest.mark.kafka
def test_a_compacted_log_has_gaps(settings):
    compacted = {
        "cleanup.policy": "compact",
        "segment.ms": "100",
        "min.cleanable.dirty.ratio": "0.01",
        "delete.retention.ms": "0",
    }
    for made in admin(settings).create_topics([NewTopic(t, 2, 1, config=compacted) for t in TOPICS]).values():
        made.result(PATIENCE)
    shop = Shop(43)
    deadline = time.monotonic() + PATIENCE
    while not all(compact(settings, t) for t in TOPICS):
        assert time.monotonic() < deadline, "nothing was compacted"
        publish(settings, shop, 60)
        time.sleep(0.3)
    keep_as_it_is(settings)
    left = sum(len(m) for t in TOPICS for m in read_log(settings, t).values())
    run(settings, left)


def compact(settings: Settings, topic: str) -> bool:
    """Whether every partition has a gap."""
    logs = read_log(settings, topic).values()
    return all(m and m[-1].offset - m[0].offset + 1 > len(m) for m in logs)


def keep_as_it_is(settings: Settings) -> None:
    """Ends the compaction: a message removed after it was tallied would be in no oracle's log."""
    change = ConfigEntry("cleanup.policy", "delete", incremental_operation=AlterConfigOpType.SET)
    resources = [ConfigResource(ConfigResource.Type.TOPIC, t, incremental_configs=[change]) for t in TOPICS]
    for changed in admin(settings).incremental_alter_configs(resources).values():
        changed.result(PATIENCE)
    before = None
    while (now := {t: read_log(settings, t) for t in TOPICS}) != before:
        before = now
        time.sleep(1.0)
