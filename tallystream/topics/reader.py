"""Reads one partition into batches, as fast as librdkafka can hand them over.

Measured on two cores: many small `consume(500)` calls gathered into one batch, and a short fetch
queue back-off, take 2.1-2.4 M events/s; librdkafka's defaults 150-530 k.
"""

from __future__ import annotations

import time
from operator import itemgetter
from typing import Any

import numpy as np
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from tallystream.errors import BrokerError, LogWentBackError
from tallystream.topics.batch import RawBatch

GATHER = 500  # messages a call: larger ones stall the fetcher behind one long hand-over
MAX_MESSAGES = 65_536  # messages a batch: large enough to vectorise, small enough to interleave partitions
REST = 0.02  # seconds without a fetch at the end of the log of a broker that answers empty fetches at once, thousands a second
NUDGE = 0.005  # seconds after a rest, with nothing heard yet, until librdkafka's thread for the broker is woken
MILLISECONDS = itemgetter(1)  # of Message.timestamp(): (kind, ms), -1 when it has none
ANSWER = 0.1  # seconds that the broker has to say where a log ends
SILENCE = 3.0  # seconds without a word of the partition, after which the broker is asked whether it has it
MAX_BYTES = 32 << 20  # bytes a batch: ten-megabyte messages must not pile up by count
# The position is not in the log any more, or the log has another past.
OTHER_LOG = (KafkaError._AUTO_OFFSET_RESET, KafkaError._LOG_TRUNCATION, KafkaError.OFFSET_OUT_OF_RANGE)
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
    # Not more: with all of the log in its queue a consumer asks for what follows it, and the embedded broker, which sends the
    # whole log at once, answers "nothing" thousands of times a second.
    "queued.min.messages": "20000",
    "check.crcs": "true",
}


def _offset(message: Message) -> int:
    offset = message.offset()
    assert offset is not None, "a message that was consumed has an offset"
    return offset


class Gathered:
    """What a batch needs of its messages, in columns: the message objects themselves are dropped at once.

    Kept until the batch is full they cost twice the time, most of it in Python's garbage collector.
    """

    def __init__(self) -> None:
        self.values: list[bytes | None] = []
        self.keys: list[bytes | None] = []
        self.stamps: list[int] = []
        self.size = 0
        self._offsets: list[np.ndarray] = []

    def add(self, got: list[Message]) -> int:
        """Takes messages in log order; returns the offset after them."""
        values = list(map(Message.value, got))
        self.values += values
        self.keys += map(Message.key, got)
        self.stamps += map(MILLISECONDS, map(Message.timestamp, got))
        # A None value is a tombstone; its length is that of nothing.
        self.size += sum(map(len, filter(None, values)))
        first, last, n = _offset(got[0]), _offset(got[-1]), len(got)
        contiguous = last - first + 1 == n
        self._offsets.append(np.arange(first, last + 1) if contiguous else np.fromiter(map(_offset, got), np.int64, n))
        return last + 1

    @property
    def offsets(self) -> np.ndarray:
        """int64, ascending, with gaps where the log holds no event."""
        return np.concatenate(self._offsets) if self._offsets else np.empty(0, np.int64)

    def cut(self, stop: int) -> None:
        """Drops what lies at `stop` or beyond."""
        kept = int(np.searchsorted(self.offsets, stop))
        self._offsets = [self.offsets[:kept]]
        del self.values[kept:], self.keys[kept:], self.stamps[kept:]


class PartitionReader:
    """One consumer assigned to one partition, from `position` on, up to `until` (exclusive).

    `config` holds what every client needs: servers and security. The position counts offsets that
    hold no event too (transaction markers, compaction), as the end of the log does. `rests`: at the
    log's end it is paused, for a broker that answers empty fetches at once; others wait with the answer.
    """

    def __init__(
        self,
        config: dict[str, Any],
        topic: str,
        partition: int,
        position: int,
        until: int | None = None,
        rests: bool = True,
    ):
        self.topic = topic
        self.partition = partition
        self.position = position
        self.until = until
        self._consumer = Consumer({**CONSUMER, **config})
        self._consumer.assign([TopicPartition(topic, partition, position)])
        self._rests = rests
        self._resting: float | None = None
        self._nudge_at: float | None = None
        self._ask_at: float | None = time.monotonic() + SILENCE

    @property
    def done(self) -> bool:
        """A bounded read has reached its end."""
        return self.until is not None and self.position >= self.until

    def read(self, stop_at: int | None = None) -> RawBatch | None:
        """What is there now, at most a batch and nothing from `stop_at` on; None when there is nothing.

        Raises:
            BrokerError: the broker refused; LogWentBackError: the position is no longer in the log.
        """
        if self._resting is not None:
            if time.monotonic() < self._resting or self._rests_on():
                return None
            self._consumer.resume([TopicPartition(self.topic, self.partition)])
            self._resting = None
            self._nudge_at = time.monotonic() + NUDGE
        stop = min((n for n in (self.until, stop_at) if n is not None), default=None)
        found = Gathered()
        after = self.position
        while len(found.values) < MAX_MESSAGES and found.size < MAX_BYTES and (stop is None or after < stop):
            got = self._consumer.consume(GATHER, 0.0005)
            if not got:
                self._nudge()
                self._ask_whether_it_exists()
                break
            self._ask_at = self._nudge_at = None
            errors = [m for m in got if m.error() is not None]
            if errors:
                after = max(after, self._end_or_raise(errors))
                got = [m for m in got if m.error() is None]
            if got:
                after = max(after, found.add(got))
            if self._resting is not None:
                break
        if stop is not None and after > stop:
            found.cut(stop)
            self._give_back(stop)
            after = stop
        if after == self.position:
            return None
        first, self.position = self.position, after
        return RawBatch(
            self.topic,
            self.partition,
            first,
            after,
            found.offsets,
            np.array(found.stamps, np.int64),
            found.keys,
            found.values,
        )

    def _end_or_raise(self, errors: list[Message]) -> int:
        """The position at the end of the partition; every other error is raised."""
        end = self.position
        for m in errors:
            error = m.error()
            assert error is not None, "only messages with an error come here"
            if error.code() != KafkaError._PARTITION_EOF:
                if error.retriable() or error.code() in (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT):
                    continue  # librdkafka reconnects by itself; the position has not moved
                told = (
                    f"{self.topic}/{self.partition} at offset {self.position}: {error.str()}; nothing after it was read"
                )
                if error.code() in OTHER_LOG:
                    raise LogWentBackError(f"{told}: the log is not the one of before; `tally run` says how to go on")
                raise BrokerError(told)
            end = max(end, _offset(m))  # OFFSET_INVALID is negative
            if self._rests:
                self._rest()
        return end

    def _rests_on(self) -> bool:
        """Whether the log still ends where it did; without a word from the broker the fetcher is asked, which names the error."""
        end = self._log_end()
        if end != self.position:
            return False
        self._resting = time.monotonic() + REST
        return True

    def _nudge(self) -> None:
        """Has librdkafka fetch on after a rest.

        Its thread for the broker sleeps for up to a second while it has nothing to do, and `resume` does not wake it: half a
        second from an event to its reader, in the middle. A request does.
        """
        if self._nudge_at is not None and time.monotonic() >= self._nudge_at:
            # A broker that is away is not asked so often: librdkafka reconnects by itself, and fetches when it has.
            self._nudge_at = time.monotonic() + (NUDGE if self._log_end() is not None else 1.0)

    def _log_end(self) -> int | None:
        """Asked of the broker; None when it does not say."""
        try:
            ends = self._consumer.get_watermark_offsets(
                TopicPartition(self.topic, self.partition), ANSWER, cached=False
            )
        except KafkaException:
            return None
        return ends[1] if ends else None

    def _ask_whether_it_exists(self) -> None:
        """A partition that is not there is waited for by librdkafka without a word, and for ever."""
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

    def _give_back(self, stop: int) -> None:
        """Seeks to `stop`, so that the next read begins with it."""
        if self.until is None or stop < self.until:
            self._consumer.assign([TopicPartition(self.topic, self.partition, stop)])

    def close(self) -> None:
        """Leaves the broker."""
        self._consumer.close()
