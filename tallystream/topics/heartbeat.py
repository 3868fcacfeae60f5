"""Heartbeats: messages that say what time it is, for partitions in which nothing happens.

The watermark of a topic is the least over its partitions, and no clock of ours moves it: a replay would
then differ from the live run. So a partition without events holds it back until its producer speaks.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping

import pyarrow as pa

from tallystream.settings import HEARTBEAT, Settings
from tallystream.topics.client import ensure_topics
from tallystream.topics.contracts import Contract, contract
from tallystream.topics.encode import Encoder
from tallystream.topics.publish import Publisher
from tallystream.topics.registry import open_registry


def heartbeat(wanted: Contract, time: int) -> pa.Table:
    """One event of the contract that says `time` (microseconds since the epoch), under an id of its own."""
    told = {"event_id": f"{HEARTBEAT}-{uuid.uuid4().hex}", "event_type": HEARTBEAT, "event_time": time}
    columns = {
        f.name: pa.array([told.get(f.name, None if f.nullable else _nothing(f.type))], f.type) for f in wanted.arrow
    }
    return pa.table(columns, schema=wanted.arrow)


def _nothing(kind: pa.DataType) -> str | int | list[None]:
    """What a required field says that has nothing to say; the key among them."""
    if pa.types.is_list(kind):
        return []
    return HEARTBEAT if pa.types.is_string(kind) else 0


def beat(publisher: Publisher, encoder: Encoder, partitions: int, time: int) -> None:
    """Queues one heartbeat for every partition: the key would choose but one of them."""
    for partition in range(partitions):
        event = heartbeat(encoder.contract, time)
        publisher.send(encoder.contract.topic, encoder.keys(event), encoder.values(event), partition)


def send_heartbeats(settings: Settings, topics: Iterable[str], time: int) -> Mapping[str, int]:
    """One heartbeat to every partition of the topics, which are created when missing; how many, by topic.

    `time`: microseconds since the epoch. Below it, by more than the lateness, everything is late from now on.

    Raises:
        BrokerError: the broker does not answer, or messages were not delivered.
    """
    registry, publisher = open_registry(settings), Publisher(settings)
    for topic, partitions in ensure_topics(settings, topics).items():
        beat(publisher, Encoder(contract(topic), registry.id_for(topic)), partitions, time)
    return publisher.close()
