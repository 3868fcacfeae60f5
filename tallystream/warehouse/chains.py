"""Chains: the Deltas of one commit by partition, end to end, and what they add to the books as one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pyarrow as pa

from tallystream.errors import FenceError
from tallystream.topics.batch import Delta, LastRecord

COUNTS = ("consumed", "applied", "duplicate", "late", "dead", "shed")
TIME = pa.timestamp("us")
BOOKED = pa.schema(
    [
        ("topic", pa.string()),
        ("partition", pa.int32()),
        ("first", pa.int64()),
        ("next", pa.int64()),
        *((name, pa.int64()) for name in COUNTS),
        ("schema_ids", pa.list_(pa.int32())),
        ("min_event_time", TIME),  # of the events applied
        ("max_applied_time", TIME),
        ("max_event_time", TIME),  # of the partition, since its beginning
        ("last_offset", pa.int64()),
        ("last_digest", pa.string()),
    ]
)
REMEMBERED = pa.schema(
    [
        ("topic", pa.string()),
        ("partition", pa.int32()),
        ("first_offset", pa.int64()),
        ("max_time", pa.int64()),
        ("memory", pa.binary()),
    ]
)


@dataclass(slots=True)
class Chain:
    """The Deltas of one partition in one commit, end to end: offsets [first, next)."""

    topic: str
    partition: int
    deltas: list[Delta]

    @property
    def first(self) -> int:
        """The offset at which the chain begins."""
        return self.deltas[0].first

    @property
    def next(self) -> int:
        """The offset at which the next chain must begin."""
        return self.deltas[-1].next

    @property
    def last(self) -> LastRecord | None:
        """The last record read; None when the chain holds offsets without messages alone."""
        return next((d.last for d in reversed(self.deltas) if d.last is not None), None)

    def counts(self) -> list[int]:
        """The accounts of the chain, in the order of COUNTS."""
        found = [0] * len(COUNTS)
        for d in self.deltas:
            for i, n in enumerate((d.consumed, d.applied, d.duplicate, d.late.num_rows, d.dead.num_rows, d.shed)):
                found[i] += n
        return found


def chains(deltas: Sequence[Delta]) -> list[Chain]:
    """Groups Deltas by partition, in log order.

    Raises:
        FenceError: two Deltas of one partition leave a hole between them, or overlap.
    """
    by_partition: dict[tuple[str, int], list[Delta]] = {}
    for delta in deltas:
        by_partition.setdefault((delta.topic, delta.partition), []).append(delta)
    for (topic, partition), group in by_partition.items():
        for before, after in pairwise(group):
            if before.next != after.first:
                raise FenceError(
                    f"{topic}/{partition}: a batch ends at {before.next}, the next begins at {after.first}"
                )
    return [Chain(t, p, group) for (t, p), group in by_partition.items()]


def booked(live: Sequence[Chain]) -> pa.Table:
    """BOOKED, one row a chain: statements over all partitions cost what one over a single partition does."""
    rows = []
    for chain in live:
        last = (chain.last.offset, chain.last.digest) if chain.last else (None, None)
        rows.append(
            (
                chain.topic,
                chain.partition,
                chain.first,
                chain.next,
                *chain.counts(),
                sorted({i for d in chain.deltas for i in d.schema_ids}),
                min((d.min_event_time for d in chain.deltas if d.min_event_time is not None), default=None),
                max((d.memory_max_time for d in chain.deltas if d.memory_max_time is not None), default=None),
                chain.deltas[-1].max_event_time,
                *last,
            )
        )
    return _table(rows, BOOKED)


def remembered(live: Sequence[Chain]) -> pa.Table:
    """REMEMBERED, one row a Delta that has applied events: the judge's memory of them."""
    rows = [
        (chain.topic, chain.partition, d.first, d.memory_max_time, d.memory)
        for chain in live
        for d in chain.deltas
        if d.memory_max_time is not None
    ]
    return _table(rows, REMEMBERED)


def _table(rows: Sequence[tuple[object, ...]], schema: pa.Schema) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [()] * len(schema)
    return pa.table([pa.array(c, field.type) for c, field in zip(columns, schema, strict=True)], schema=schema)
