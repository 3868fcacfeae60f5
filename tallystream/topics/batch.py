"""What travels from a partition to the sink: batches of one partition for offsets [first, next)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

LATE_SCHEMA = pa.schema(
    [
        ("topic", pa.string()),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("reason", pa.string()),
        ("event_id", pa.string()),
        ("event_type", pa.string()),
        ("event_time", pa.timestamp("us")),
        ("record_time", pa.timestamp("us")),
        ("key", pa.binary()),
        ("value", pa.binary()),
    ]
)
DEAD_SCHEMA = pa.schema(
    [
        ("topic", pa.string()),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("record_time", pa.timestamp("us")),
        ("key", pa.binary()),
        ("value", pa.binary()),
    ]
)


@dataclass(frozen=True, slots=True)
class LastRecord:
    """The last record read of a partition: by it the log is known again, whatever ids its broker gives.

    `digest` is of the record's timestamp, key and value.
    """

    offset: int
    digest: str


def last_record(offset: int, timestamp: int, key: bytes | None, value: bytes | None) -> LastRecord:
    """The record at `offset`; `timestamp` in ms, as in a RawBatch."""
    digest = hashlib.blake2b(timestamp.to_bytes(8, "big", signed=True), digest_size=16)
    for part in (key, value):
        # The lengths keep a key's end from being taken for a value's begin, and nothing from being empty.
        digest.update((-1 if part is None else len(part)).to_bytes(8, "big", signed=True))
        digest.update(part or b"")
    return LastRecord(offset, digest.hexdigest())


@dataclass(slots=True)
class RawBatch:
    """Messages of one partition as they came, offsets [first, next).

    `next` is the position after the batch: with transaction markers or compaction it may lie
    further than the last offset plus one. All arrays and lists have one element a message.
    """

    topic: str
    partition: int
    first: int
    next: int
    offsets: np.ndarray  # int64
    timestamps: np.ndarray  # int64, ms since the epoch of the record's own timestamp; -1 when it has none
    keys: list[bytes | None]
    values: list[bytes | None]

    def joined(self, after: RawBatch) -> RawBatch:
        """This batch and the one that begins where it ends, as one."""
        assert (self.topic, self.partition, self.next) == (after.topic, after.partition, after.first)
        return RawBatch(
            self.topic,
            self.partition,
            self.first,
            after.next,
            np.concatenate([self.offsets, after.offsets]),
            np.concatenate([self.timestamps, after.timestamps]),
            self.keys + after.keys,
            self.values + after.values,
        )

    @property
    def last(self) -> LastRecord | None:
        """Its last record; None when it has none, only offsets without a message."""
        if not self.values:
            return None
        return last_record(int(self.offsets[-1]), int(self.timestamps[-1]), self.keys[-1], self.values[-1])


@dataclass(slots=True)
class DecodedBatch:
    """A RawBatch read by its contract: `events` in log order, and what could not be read.

    `events` has the contract's columns in the contract's order; `rows[i]` is the index in `raw`
    of event i. `dead` has DEAD_SCHEMA, in log order. len(events) + len(dead) == len(raw.values).
    """

    raw: RawBatch
    events: pa.Table
    rows: np.ndarray  # int64
    dead: pa.Table
    schema_ids: tuple[int, ...]


@dataclass(slots=True)
class JudgedBatch:
    """The verdicts on a DecodedBatch: every message is in exactly one account.

    consumed == applied + duplicate + late + dead. `memory` is what the judge must remember of this
    batch, packed (see `judge`); `max_event_time` is the partition's greatest accepted event time
    after the batch, microseconds since the epoch, None before the first. `min_event_time`: the least one applied in it.
    """

    topic: str
    partition: int
    first: int
    next: int
    consumed: int
    duplicate: int
    applied: pa.Table
    late: pa.Table  # LATE_SCHEMA
    dead: pa.Table  # DEAD_SCHEMA
    memory: bytes
    memory_max_time: int | None
    max_event_time: int | None
    schema_ids: tuple[int, ...]
    min_event_time: int | None = None
    last: LastRecord | None = None


@dataclass(slots=True)
class Delta:
    """What one batch changes in the warehouse; the sink commits Deltas, and nothing else.

    `partials` maps a view's name to the rows of its plan's partial; they may be those of other Deltas too, which are
    committed with it, and then `partials_from` is the least event time in them. `first`, `next`: offsets half-open. `min_event_time`, `memory_max_time`: of the events applied, microseconds. A Delta with `building` set belongs to those views alone and touches no account.
    """

    topic: str
    partition: int
    first: int
    next: int
    consumed: int
    applied: int
    duplicate: int
    late: pa.Table
    dead: pa.Table
    shed: int
    memory: bytes
    memory_max_time: int | None
    max_event_time: int | None
    schema_ids: tuple[int, ...]
    partials: dict[str, pa.Table] = field(default_factory=dict)
    building: frozenset[str] = frozenset()
    min_event_time: int | None = None
    last: LastRecord | None = None
    partials_from: int | None = None
