"""Publish: one idempotent producer, in order, every message accounted for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from tallystream.errors import BrokerError
from tallystream.settings import Settings
from tallystream.topics.client import kafka_config

PRODUCER: dict[str, Any] = {
    # Without it a retry after a lost answer writes a batch twice, or after the next one.
    "enable.idempotence": "true",
    "acks": "all",
    # The hash of Java clients: other producers of the same topic put a key into the same partition.
    "partitioner": "murmur2",
    "linger.ms": "20",
    "batch.size": str(1 << 20),
    "batch.num.messages": "20000",
    "queue.buffering.max.messages": "400000",
    "queue.buffering.max.kbytes": str(256 << 10),
    "compression.type": "none",
    # The broker says what is too large, not a default of the client.
    "message.max.bytes": "1000000000",
    "message.timeout.ms": "120000",
    # Only failures call back into Python: a callback for each success would halve the rate.
    "delivery.report.only.error": True,
}
CHOSEN_BY_KEY = -1


class Publisher:
    """Sends messages in the order given; `close` waits for all of them and names what failed.

    `delivered` is known after `close` alone. Messages of one key go to one partition in this order.
    """

    def __init__(self, settings: Settings):
        config = kafka_config(settings)
        self._servers = config["bootstrap.servers"]
        self._producer = Producer({**PRODUCER, **config, "error_cb": self._note})
        self.sent: dict[str, int] = {}
        self.failed: dict[str, int] = {}
        self._first_error: str | None = None
        self._trouble: str | None = None

    def send(
        self, topic: str, keys: Sequence[bytes | None], values: Sequence[bytes | None], partition: int = CHOSEN_BY_KEY
    ) -> None:
        """Queues messages; waits while the queue is full, so that memory stays bounded.

        Raises:
            BrokerError: the producer cannot go on, or a message is larger than any broker would take.
        """
        produce, poll = self._producer.produce, self._producer.poll
        queued = 0
        try:
            for key, value in zip(keys, values, strict=True):
                while True:
                    try:
                        produce(topic, value, key, partition, on_delivery=self._failed)
                        break
                    except BufferError:
                        poll(0.1)
                queued += 1
        except KafkaException as error:
            reason = error.args[0].str()
            raise BrokerError(f"{topic}: a message was refused: {reason}; {queued} before it were sent") from error
        finally:
            self.sent[topic] = self.sent.get(topic, 0) + queued
        poll(0)

    def close(self) -> dict[str, int]:
        """Waits until every message is delivered or has failed; returns how many were delivered, by topic.

        Raises:
            BrokerError: some failed; says how many arrived, how many did not, and the first reason.
        """
        while self._producer.flush(1.0):
            pass
        if self.failed:
            raise BrokerError(f"{self._books()}; the first failure: {self._first_error}")
        return dict(self.sent)

    def _books(self) -> str:
        lost = sum(self.failed.values())
        return f"{self._servers}: of {sum(self.sent.values())} messages sent, {lost} were not delivered"

    def _failed(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            topic = message.topic() or ""
            self.failed[topic] = self.failed.get(topic, 0) + 1
            self._first_error = self._first_error or self._trouble or error.str()

    def _note(self, error: KafkaError) -> None:
        """Keeps what librdkafka says of the connection: it tells more than "message timed out"."""
        self._trouble = error.str()


def send_all(settings: Settings, topic: str, messages: Sequence[tuple[Any, Any]]) -> int:
    """Publishes (key, value) pairs and waits; how many were delivered."""
    publisher = Publisher(settings)
    publisher.send(topic, [k for k, _ in messages], [v for _, v in messages])
    return publisher.close().get(topic, 0)
