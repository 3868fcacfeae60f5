"""Copies committed offsets to the Kafka consumer group, for lag tools only: never read back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from tallystream.failpoints import hit
from tallystream.topics.reader import CONSUMER

log = structlog.get_logger()


class OffsetMirror:
    """Commits offsets to the group without waiting; a failure is logged and changes nothing."""

    def __init__(self, config: dict[str, Any]):
        self._consumer = Consumer({**CONSUMER, **config, "on_commit": _report})

    def send(self, offsets: Mapping[tuple[str, int], int]) -> None:
        """Mirrors next offsets by (topic, partition)."""
        if not offsets:
            return
        marks = [TopicPartition(topic, partition, offset) for (topic, partition), offset in offsets.items()]
        try:
            self._consumer.commit(offsets=marks, asynchronous=True)
            hit("mirror.inside")
            self._consumer.poll(0)
        except KafkaException as error:
            log.warning("mirror failed", error=str(error))

    def close(self) -> None:
        """Leaves the broker."""
        self._consumer.close()


def _report(error: KafkaError | None, _offsets: list[TopicPartition]) -> None:
    if error is not None:
        log.warning("mirror failed", error=error.str())
