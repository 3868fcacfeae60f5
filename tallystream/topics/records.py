"""Reads single records of a log: by the last one read before, a log is known again."""

from __future__ import annotations

import time
from collections.abc import Mapping

from confluent_kafka import Consumer, KafkaError, TopicPartition

from tallystream.errors import BrokerError, LogWentBackError
from tallystream.settings import Settings
from tallystream.topics.batch import LastRecord, last_record
from tallystream.topics.client import TIMEOUT, kafka_config
from tallystream.topics.reader import CONSUMER, OTHER_LOG

# One record is wanted, not the eight megabytes behind it that a reader fetches at a time.
SMALL = {"queued.min.messages": "1", "max.partition.fetch.bytes": "1024"}
Key = tuple[str, int]


def read_records(settings: Settings, wanted: Mapping[Key, int]) -> dict[Key, LastRecord | None]:
    """By partition the first record at or after an offset that its log has; None when no record follows.

    At an offset may be none: transaction markers and aborted messages take offsets, compaction empties them.

    Raises:
        BrokerError: the broker does not answer.
    """
    found: dict[Key, LastRecord | None] = {}
    if not wanted:
        return found
    consumer = Consumer({**CONSUMER, **kafka_config(settings), **SMALL})
    deadline = time.monotonic() + TIMEOUT
    try:
        consumer.assign([TopicPartition(topic, partition, offset) for (topic, partition), offset in wanted.items()])
        while len(found) < len(wanted):
            for message in consumer.consume(100, 0.1):
                key = message.topic() or "", message.partition() or 0
                error = message.error()
                if key in found or key not in wanted:
                    continue
                if error is None:
                    offset, stamp = message.offset(), message.timestamp()[1]
                    assert offset is not None, "a message that was consumed has an offset"
                    found[key] = last_record(offset, stamp, message.key(), message.value())
                elif error.code() == KafkaError._PARTITION_EOF:
                    found[key] = None
                elif error.code() in OTHER_LOG:
                    raise LogWentBackError(
                        f"{key[0]}/{key[1]}: offset {wanted[key]} left the log a moment ago; nothing was read, run again"
                    )
            if time.monotonic() > deadline:
                topic, partition = next(key for key in wanted if key not in found)
                raise BrokerError(
                    f"{topic}/{partition}: the record at offset {wanted[topic, partition]} could not be read within "
                    f"{TIMEOUT:.0f} s, so the log cannot be told from another; nothing was read or changed, run again"
                )
    finally:
        consumer.close()
    return found
