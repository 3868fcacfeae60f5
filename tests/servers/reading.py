"""Reading a partition to an end, and what a test compares of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing

from tallystream.settings import Settings
from tallystream.topics.batch import RawBatch
from tallystream.topics.client import kafka_config
from tallystream.topics.reader import PartitionReader

PATIENCE = 60.0  # seconds for all of one read; a reader that waits for what never comes fails the test

Seen = list[tuple[int, bytes | None, bytes | None]]  # offset, key, value


def open_reader(
    settings: Settings, topic: str, partition: int = 0, position: int = 0, until: int | None = None
) -> PartitionReader:
    """A reader of the product, with the product's configuration."""
    return PartitionReader(kafka_config(settings), topic, partition, position, until)


def drain(reader: PartitionReader, enough: Callable[[Seen], bool] | None = None, stop_at: int | None = None) -> Seen:
    """Reads until `enough`, by default until the bounded end or `stop_at`; each batch must join the one before."""
    seen: Seen = []
    deadline = time.monotonic() + PATIENCE
    while not (enough(seen) if enough else reader.done or reader.position == stop_at):
        assert time.monotonic() < deadline, f"at {reader.position} of {reader.until} after {len(seen)} messages"
        before = reader.position
        batch = reader.read(stop_at)
        if batch is None:
            assert reader.position == before
            continue
        assert (batch.topic, batch.partition) == (reader.topic, reader.partition)
        assert before == batch.first < batch.next == reader.position
        seen += rows(batch)
    return seen


def rows(batch: RawBatch) -> Seen:
    """The messages of a batch; their offsets lie in it, in order."""
    offsets = batch.offsets.tolist()
    assert len(offsets) == len(batch.timestamps) == len(batch.keys) == len(batch.values)
    assert all(batch.first <= n < batch.next for n in offsets)
    assert offsets == sorted(set(offsets))
    return list(zip(offsets, batch.keys, batch.values, strict=True))


def read_to(settings: Settings, topic: str, position: int, until: int, partition: int = 0) -> Seen:
    """All messages with offsets [position, until)."""
    with closing(open_reader(settings, topic, partition, position, until)) as reader:
        seen = drain(reader)
        assert reader.position == until
        assert reader.read() is None
        return seen
