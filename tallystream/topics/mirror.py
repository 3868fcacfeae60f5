"""Copies committed offsets to the Kafka consumer group, for lag tools only: never read back."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from tallystream.failpoints import hit
from tallystream.topics.reader import CONSUMER

log = structlog.get_logger()


class OffsetMirror:
    """Commits offsets to the group without waiting; a failure is logged and changes nothing."""

    def __init__(self, config: dict[str, Any], every: float):
        """`every`: seconds between two commits to the group; the last offsets follow at the end."""
        self._consumer = Consumer({**CONSUMER, **config, "on_commit": _report})
        self._every = every
        self._next = time.monotonic() + every  # from when on one is due
        self._waiting: dict[tuple[str, int], int] = {}

    def send(self, offsets: Mapping[tuple[str, int], int]) -> None:
        """Mirrors next offsets by (topic, partition), now or with a later call."""
        self._waiting.update(offsets)
        if self._waiting and time.monotonic() >= self._next:
            self._commit()

    def _commit(self) -> None:
        marks = [TopicPartition(topic, partition, offset) for (topic, partition), offset in self._waiting.items()]
        self._waiting = {}
        self._next = time.monotonic() + self._every
        try:
            self._consumer.commit(offsets=marks, asynchronous=True)
            hit("mirror.inside")
            self._consumer.poll(0)
        except KafkaException as error:
            log.warning("mirror failed", error=str(error))

    def close(self) -> None:
        """Mirrors what waits, and leaves the broker."""
        if self._waiting:
            self._commit()
        self._consumer.close()


def _report(error: KafkaError | None, _offsets: list[TopicPartition]) -> None:
    if error is not None:
        log.warning("mirror failed", error=error.str())
