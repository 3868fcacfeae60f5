"""Generate: the synthetic shop onto the topics, as fast as the broker takes it or at a pace."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from tallystream.settings import TOPICS, Settings
from tallystream.topics.client import ensure_topics
from tallystream.topics.contracts import contract
from tallystream.topics.encode import Encoder, wire_header
from tallystream.topics.heartbeat import beat
from tallystream.topics.publish import Publisher
from tallystream.topics.registry import open_registry
from tallystream.topics.shop import Shop, arrivals, tables
from tallystream.topics.wire import zigzag

SLICE = 16_384  # events encoded at once: enough to vectorise, little enough to show progress
BEAT = 10.0  # seconds between two heartbeats of a paced run
NAP = 0.05  # seconds between two looks at the clock of a paced run
UNKNOWN_SCHEMA = 2**31 - 1
Message = tuple[bytes | None, bytes | None]
Tick = Callable[[int], None]


@dataclass(frozen=True)
class Generated:
    """What was delivered: messages by topic, and how many of them are copies, malformed and heartbeats."""

    messages: dict[str, int]
    copies: int
    malformed: int
    seconds: float
    heartbeats: int = 0


def broken(value: bytes) -> tuple[bytes | None, ...]:
    """A good message, broken in ways that the decoder tells apart: each is dead for a reason of its own."""
    return (
        value[:-1],  # truncated
        value + b"\0",  # trailing bytes
        wire_header(UNKNOWN_SCHEMA) + value[5:],
        value[:6] + b"\xff" + value[7:],  # the event_id is no UTF-8
        value[:5] + zigzag(-1) + value[6:],  # the event_id has a negative length
        b"\xffno event",
        b'{"event_id": ',  # cut JSON
        b'{"event_id": "1"}',  # missing fields
        None,
    )


def generate(
    settings: Settings,
    shop: Shop,
    malformed: int = 0,
    paced: bool = False,
    tick: Tick = lambda _: None,
    stopped: Callable[[], bool] = lambda: False,
    heartbeat: bool = False,
) -> Generated:
    """Publishes a shop; topics that are missing are created.

    `malformed` messages come on top, spread evenly. `paced`: an event is sent when as much time has
    passed since the beginning as its arrival is after `shop.start`. `tick` hears of each slice's length,
    `stopped` is asked after each. `heartbeat`: every partition is told the newest event's time at the end, and in a
    paced run every BEAT seconds; heartbeats come on top and count as messages.

    Raises:
        BrokerError: the broker does not answer, or messages were not delivered.
    """
    began = time.monotonic()
    topics = [t for t in TOPICS if t in shop.topics]
    partitions = ensure_topics(settings, topics)
    registry = open_registry(settings)
    encoders = {t: Encoder(contract(t), registry.id_for(t)) for t in topics}
    publisher = Publisher(settings)
    copies = made = seen = newest = beats = 0
    beaten = began
    samples: dict[str, Message] = {}
    for rows in _slices(shop, paced):
        for topic, events in tables(shop, rows):
            keys, values = encoders[topic].keys(events), encoders[topic].values(events)
            publisher.send(topic, keys, values)
            samples[topic] = keys[0], values[0]
        copies += int(rows["copy"].sum())
        seen += len(rows) - int(rows["copy"].sum())
        due = malformed * seen // shop.events
        _send_broken(publisher, samples, made, due)
        made = due
        newest = max(newest, int(rows["time"].max()))
        if heartbeat and paced and time.monotonic() - beaten >= BEAT:
            beats += _beat(publisher, encoders, partitions, newest)
            beaten = time.monotonic()
        tick(len(rows))
        if stopped():
            break
    if heartbeat and newest:
        beats += _beat(publisher, encoders, partitions, newest)
    return Generated(publisher.close(), copies, made, time.monotonic() - began, beats)


def _beat(publisher: Publisher, encoders: dict[str, Encoder], partitions: dict[str, int], newest: int) -> int:
    for topic, encoder in encoders.items():
        beat(publisher, encoder, partitions[topic], newest)
    return sum(partitions.values())


def fill(settings: Settings, topic: str, events: int, partitions: int, seed: int = 1) -> Generated:
    """Fills one topic for a benchmark; it is created with so many partitions when it is missing."""
    sized = settings.model_copy(update={"partitions": partitions})
    shop = Shop(events, seed, 0, topics=(topic,))
    now = int(time.time() * 1e6)
    return generate(sized, replace(shop, start=now - int(events * shop.step)))


def _send_broken(publisher: Publisher, samples: dict[str, Message], first: int, last: int) -> None:
    """The malformed messages [first, last): topics and ways take turns."""
    topics = sorted(samples)
    for i in range(first, last):
        topic = topics[i % len(topics)]
        key, value = samples[topic]
        ways = broken(value or b"")
        publisher.send(topic, [key], [ways[i // len(topics) % len(ways)]])


def _slices(shop: Shop, paced: bool) -> Iterator[np.ndarray]:
    offset = int(time.time() * 1e6) - shop.start
    for rows in arrivals(shop):
        at = 0
        while at < len(rows):
            upto = min(len(rows), at + SLICE)
            if paced:
                now = int(time.time() * 1e6) - offset
                upto = min(upto, int(np.searchsorted(rows["arrival"], now, side="right")))
                if upto == at:
                    time.sleep(min(NAP, max(0.001, (int(rows["arrival"][at]) - now) / 1e6)))
                    continue
            yield rows[at:upto]
            at = upto
            if paced:
                # A slice of a few events each time, not one event each time.
                time.sleep(NAP)
