"""Kafka clients: configuration, topics, their ids and the offsets that their logs have."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable
from typing import Any

from confluent_kafka import Consumer, IsolationLevel, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from tallystream.errors import BrokerError
from tallystream.settings import TOPICS, Settings
from tallystream.topics import broker

TIMEOUT = 20.0  # seconds for one request to the broker
# Logs of the embedded broker are the only copy: nothing is ever removed from them.
NO_TOPIC_ID = "A" * 22  # sixteen zero bytes: what a broker without topic ids answers
EMBEDDED_TOPIC = {"retention.ms": "-1", "retention.bytes": "-1", "max.message.bytes": "104857600"}


def kafka_config(settings: Settings) -> dict[str, Any]:
    """What every client needs: servers (the embedded broker may be started on demand), security, sizes."""
    return {
        "bootstrap.servers": settings.bootstrap_servers or broker.address(settings),
        # The embedded broker answers a fetch with more than was asked for.
        "receive.message.max.bytes": "2000000000",
        "log_level": "2",
        **settings.kafka_options,
    }


@functools.lru_cache(maxsize=4)
def _admin(config: tuple[tuple[str, Any], ...]) -> AdminClient:
    return AdminClient(dict(config))


def admin(settings: Settings) -> AdminClient:
    """An admin client, one for each configuration."""
    return _admin(tuple(sorted(kafka_config(settings).items())))


def ensure_topics(settings: Settings, topics: Iterable[str] = TOPICS) -> dict[str, int]:
    """Creates the topics that are missing; returns the number of partitions of each, as they are.

    Raises:
        BrokerError: the broker does not answer or refuses.
    """
    wanted = list(topics)
    found = _partitions(settings)
    missing = [t for t in wanted if t not in found]
    if missing:
        config = {} if settings.bootstrap_servers else EMBEDDED_TOPIC
        new = [
            NewTopic(t, settings.partitions, -1 if settings.bootstrap_servers else 1, config=config) for t in missing
        ]
        for topic, done in admin(settings).create_topics(new, operation_timeout=TIMEOUT).items():
            try:
                done.result(TIMEOUT)
            except KafkaException as error:
                if error.args[0].name() != "TOPIC_ALREADY_EXISTS":
                    raise BrokerError(f"topic {topic} could not be created: {error.args[0].str()}") from error
        found = _created(settings, wanted)
    return {t: found[t] for t in wanted}


def _created(settings: Settings, wanted: list[str]) -> dict[str, int]:
    """Waits until new topics are seen: one left out here would silently never be read."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        found = _partitions(settings)
        unseen = [t for t in wanted if t not in found]
        if not unseen:
            return found
        if time.monotonic() > deadline:
            raise BrokerError(f"topic {unseen[0]} was created, but the broker does not show it; try again")
        time.sleep(0.05)


def _partitions(settings: Settings) -> dict[str, int]:
    try:
        topics = admin(settings).list_topics(timeout=TIMEOUT).topics
    except KafkaException as error:
        servers = kafka_config(settings)["bootstrap.servers"]
        raise BrokerError(f"the broker at {servers} does not answer: {error.args[0].str()}") from error
    return {name: len(topic.partitions) for name, topic in topics.items() if topic.error is None and topic.partitions}


def topic_logs(
    settings: Settings, topics: Iterable[str] = TOPICS
) -> dict[str, tuple[str | None, dict[int, tuple[int, int]]]]:
    """By topic its id and, by partition, the offsets [low, high) that a committed reader can reach.

    Topics that are missing are created. `high` is the last stable offset: an open transaction ends it.

    Raises:
        BrokerError: the broker does not answer.
    """
    counts = ensure_topics(settings, topics)
    ids = topic_ids(settings, list(counts))
    return {t: (ids.get(t), log_range(settings, t, n)) for t, n in counts.items()}


def topic_ids(settings: Settings, topics: list[str]) -> dict[str, str | None]:
    """The ids that tell a topic from its namesake made later; None where the broker has none.

    The embedded broker's is that of its whole log: a topic deleted and made anew there keeps it.
    """
    found: dict[str, str | None] = {}
    for topic, described in admin(settings).describe_topics(TopicCollection(topics), request_timeout=TIMEOUT).items():
        try:
            found[topic] = str(described.result(TIMEOUT).topic_id)
            if found[topic] == NO_TOPIC_ID:
                found[topic] = None if settings.bootstrap_servers else broker.log_id(settings)
        except KafkaException as error:
            raise BrokerError(f"topic {topic} cannot be described: {error.args[0].str()}") from error
    return found


def log_range(settings: Settings, topic: str, partitions: int) -> dict[int, tuple[int, int]]:
    """By partition the offsets [low, high) of a topic, as a read_committed consumer sees them."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            low, high = (_offsets(settings, topic, partitions, s) for s in (OffsetSpec.earliest(), OffsetSpec.latest()))
            return {p: (max(0, low[p]), max(0, high[p])) for p in range(partitions)}
        except KafkaException as error:
            if time.monotonic() > deadline:
                raise BrokerError(f"the offsets of {topic} cannot be read: {error.args[0].str()}") from error
        # After a restart of the broker, or while a leader moves, the client knows no leader until it asks anew.
        _partitions(settings)
        time.sleep(0.05)


def _offsets(settings: Settings, topic: str, partitions: int, spec: OffsetSpec) -> dict[int, int]:
    asked = {TopicPartition(topic, p): spec for p in range(partitions)}
    answers = admin(settings).list_offsets(
        asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=TIMEOUT
    )
    return {tp.partition: done.result(TIMEOUT).offset for tp, done in answers.items()}


def plain_consumer(settings: Settings, **options: Any) -> Consumer:
    """A consumer that commits nothing by itself."""
    return Consumer(
        {"group.id": "tallystream-tools", "enable.auto.commit": "false", **kafka_config(settings), **options}
    )
