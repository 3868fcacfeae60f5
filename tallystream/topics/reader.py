"""Reads one partition into batches, as fast as librdkafka can hand them over.

Measured on two cores: many small `consume(500)` calls gathered into one batch, and a short fetch
queue back-off, take 2.1-2.4 M events/s; librdkafka's defaults 150-530 k.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, Message, TopicPartition

from tallystream.errors import BrokerError
from tallystream.topics.batch import RawBatch

GATHER = 500  # messages a call: larger ones stall the fetcher behind one long hand-over
MAX_MESSAGES = 65_536  # messages a batch: large enough to vectorise, small enough to interleave partitions
REST = 0.02  # seconds without a fetch at the end of the log: the embedded broker answers empty fetches at once, thousands a second
SILENCE = 3.0  # seconds without a word of the partition, after which the broker is asked whether it has it
MAX_BYTES = 32 << 20  # bytes a batch: ten-megabyte messages must not pile up by count
CONSUMER = {
    "group.id": "tallystream",
    "enable.auto.commit": "false",
    "enable.auto.offset.store": "false",
    "enable.partition.eof": "true",
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
    "fetch.queue.backoff.ms": "1",
    "fetch.wait.max.ms": "50",
    "max.partition.fetch.bytes": str(8 << 20),
    "queued.max.messages.kbytes": str(64 << 10),
    "queued.min.messages": "200000",
    "check.crcs": "true",
}


class PartitionReader:
    """One consumer assigned to one partition, from `position` on, up to `until` (exclusive).

    `config` holds what every client needs: servers and security. The position counts offsets that
    hold no event too (transaction markers, compaction), as the end of the log does.
    """

    def __init__(self, config: dict[str, Any], topic: str, partition: int, position: int, until: int | None = None):
        self.topic = topic
        self.partition = partition
        self.position = position
        self.until = until
        self._consumer = Consumer({**CONSUMER, **config})
        self._consumer.assign([TopicPartition(topic, partition, position)])
        self._resting: float | None = None
        self._ask_at: float | None = time.monotonic() + SILENCE

    @property
    def done(self) -> bool:
        """A bounded read has reached its end."""
        return self.until is not None and self.position >= self.until

    def read(self, stop_at: int | None = None) -> RawBatch | None:
        """What is there now, at most a batch and nothing from `stop_at` on; None when there is nothing.

        Raises:
            BrokerError: the broker refused, or the position is no longer in the log.
        """
        if self._resting is not None:
            if time.monotonic() < self._resting:
                return None
            self._consumer.resume([TopicPartition(self.topic, self.partition)])
            self._resting = None
        stop = min((n for n in (self.until, stop_at) if n is not None), default=None)
        messages: list[Message] = []
        size, after = 0, self.position
        while len(messages) < MAX_MESSAGES and size < MAX_BYTES and (stop is None or after < stop):
            got = self._consumer.consume(GATHER, 0.0005)
            if not got:
                self._ask_whether_it_exists()
                break
            self._ask_at = None
            good = [m for m in got if m.error() is None]
            if len(good) < len(got):
                after = max(after, self._end_or_raise([m for m in got if m.error() is not None]))
            if good:
                messages += good
                size += sum(map(len, good))
                after = max(after, good[-1].offset() + 1)
            if self._resting is not None:
                break
        if stop is not None and after > stop:
            messages = self._give_back(messages, stop)
            after = stop
        if after == self.position:
            return None
        first, self.position = self.position, after
        return self._batch(first, messages)

    def _end_or_raise(self, errors: list[Message]) -> int:
        """The position at the end of the partition; every other error is raised."""
        end = self.position
        for m in errors:
            if m.error().code() != KafkaError._PARTITION_EOF:
                if m.error().retriable() or m.error().code() in (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT):
                    continue  # librdkafka reconnects by itself; the position has not moved
                raise BrokerError(f"{self.topic}/{self.partition} at offset {self.position}: {m.error().str()}; nothing after it was read")
            if m.offset() != OFFSET_INVALID:
                end = max(end, m.offset())
            self._rest()
        return end

    def _ask_whether_it_exists(self) -> None:
        """librdkafka waits for a partition that is not there, without a word and for ever."""
        if self._ask_at is None or time.monotonic() < self._ask_at:
            return
        self._ask_at = time.monotonic() + SILENCE
        try:
            found = self._consumer.list_topics(self.topic, timeout=1.0).topics[self.topic]
        except KafkaException:
            return  # no broker yet: waited for
        if self.partition not in found.partitions:
            raise BrokerError(f"{self.topic}/{self.partition} is not on the broker; nothing was read")

    def _rest(self) -> None:
        self._consumer.pause([TopicPartition(self.topic, self.partition)])
        self._resting = time.monotonic() + REST

    def _give_back(self, messages: list[Message], stop: int) -> list[Message]:
        """Drops what lies at `stop` or beyond and seeks there, so that the next read begins with it."""
        kept = [m for m in messages if m.offset() < stop]
        if self.until is None or stop < self.until:
            self._consumer.assign([TopicPartition(self.topic, self.partition, stop)])
        return kept

    def _batch(self, first: int, messages: list[Message]) -> RawBatch:
        n = len(messages)
        if n and messages[-1].offset() - messages[0].offset() + 1 == n:
            offsets = np.arange(messages[0].offset(), messages[0].offset() + n, dtype=np.int64)
        else:
            offsets = np.fromiter((m.offset() for m in messages), np.int64, n)
        return RawBatch(
            self.topic,
            self.partition,
            first,
            self.position,
            offsets,
            np.fromiter((m.timestamp()[1] for m in messages), np.int64, n),
            [m.key() for m in messages],
            [m.value() for m in messages],
        )

    def close(self) -> None:
        """Leaves the broker."""
        self._consumer.close()
