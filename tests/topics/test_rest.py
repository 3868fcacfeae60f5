"""A reader at the end of the log: who pauses, who is woken, and what a broker that says nothing changes.

librdkafka's part is played here: a consumer whose fetcher sleeps after `resume` until some request wakes it, as the real
one does for up to a second.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Message

from tallystream.topics import reader as module
from tallystream.topics.reader import ANSWER, REST, PartitionReader

END = 7


def told(offset: int, value: bytes) -> Message:
    return Message(topic="clicks", partition=0, offset=offset, value=value, timestamp=(1, 0))


class End:
    """The end of the partition, as `consume` tells it: a Message with an error cannot be made from here."""

    def error(self) -> KafkaError:
        return KafkaError(KafkaError._PARTITION_EOF)

    def offset(self) -> int:
        return END


class SleepyConsumer:
    """Holds `log`; `asked` are the times at which it was asked for the log's end, `away` whether it answers that."""

    def __init__(self, clock: Clock) -> None:
        self.log = [b"x"] * END
        self.asked: list[float] = []
        self.paused = self.asleep = self.away = False
        self._clock = clock
        self._at, self._told_end = END, False

    def assign(self, partitions: list[Any]) -> None:
        pass

    def consume(self, n: int, seconds: float) -> list[Message | End]:
        if self.paused or self.asleep:
            return []
        if self._at < len(self.log):
            found = [told(o, self.log[o]) for o in range(self._at, len(self.log))][:n]
            self._at, self._told_end = self._at + len(found), False
            return found
        if self._told_end:
            return []
        self._told_end = True
        return [End()]

    def pause(self, partitions: list[Any]) -> None:
        self.paused = True

    def resume(self, partitions: list[Any]) -> None:
        self.paused, self.asleep, self._told_end = False, True, False

    def get_watermark_offsets(self, partition: Any, timeout: float, cached: bool) -> tuple[int, int] | None:
        assert (timeout, cached) == (ANSWER, False)
        self.asked.append(self._clock.now)
        if self.away:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        if not self.paused:
            self.asleep = False
        return 0, len(self.log)


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def open_at_end(monkeypatch, clock: Clock, rests: bool) -> tuple[PartitionReader, SleepyConsumer]:
    consumer = SleepyConsumer(clock)
    monkeypatch.setattr(module, "Consumer", lambda config: consumer)
    made = PartitionReader({}, "clicks", 0, END, rests=rests)
    assert made.read() is None
    assert consumer.paused is rests
    return made, consumer


def wait_for_batch(reader: PartitionReader, clock: Clock, longest: float) -> tuple[float, int]:
    """Seconds until the reader has something, and how many messages; it looks every millisecond, as the flow's thread does."""
    began = clock.now
    while clock.now - began < longest:
        batch = reader.read()
        if batch is not None:
            return clock.now - began, len(batch.values)
        clock.now += 0.001
    raise AssertionError(f"nothing was read in {longest} s")


def test_a_reader_that_rests_is_woken_within_moments_of_an_event(monkeypatch, clock):
    made, consumer = open_at_end(monkeypatch, clock, rests=True)
    consumer.log += [b"a", b"b"]
    waited, found = wait_for_batch(made, clock, longest=1.0)
    assert found == 2
    assert REST <= waited < REST + 0.01
    assert made.position == END + 2


def test_while_the_log_stands_still_nothing_is_fetched_and_the_end_is_asked_once_a_rest(monkeypatch, clock):
    made, consumer = open_at_end(monkeypatch, clock, rests=True)
    for _ in range(1000):
        clock.now += 0.001
        assert made.read() is None
        assert consumer.paused
    gaps = [after - before for before, after in pairwise(consumer.asked)]
    assert len(consumer.asked) > 30
    assert min(gaps) > REST * 0.99


def test_a_log_that_went_back_is_fetched_again_so_that_its_error_is_seen(monkeypatch, clock):
    made, consumer = open_at_end(monkeypatch, clock, rests=True)
    del consumer.log[3:]
    clock.now += REST
    made.read()
    assert not consumer.paused


def test_a_broker_that_is_away_is_asked_once_a_second_and_fetched_from_when_it_is_back(monkeypatch, clock):
    made, consumer = open_at_end(monkeypatch, clock, rests=True)
    consumer.away = True
    for _ in range(5000):
        clock.now += 0.001
        assert made.read() is None
    assert 5 <= len(consumer.asked) <= 8
    consumer.away = False
    consumer.log.append(b"a")
    waited, found = wait_for_batch(made, clock, longest=2.0)
    assert found == 1
    assert waited <= 1.01


def test_a_reader_of_a_broker_that_waits_with_its_answer_never_pauses(monkeypatch, clock):
    made, consumer = open_at_end(monkeypatch, clock, rests=False)
    for _ in range(100):
        clock.now += 0.001
        assert made.read() is None
        assert not consumer.paused
    assert consumer.asked == []
    consumer.log.append(b"a")
    waited, found = wait_for_batch(made, clock, longest=0.1)
    assert (waited, found) == (0.0, 1)
