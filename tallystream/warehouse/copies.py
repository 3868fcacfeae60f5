"""Has this event been counted already, under another offset? The question before a late or dead row goes back in.

A late message is often a copy: a producer that retried hours later sends an event that was applied long ago,
and "late" is said before "duplicate". Driven back in unasked, it would count twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tallystream.settings import Settings
from tallystream.topics.client import kafka_config, topic_logs
from tallystream.topics.decode import Decoder
from tallystream.topics.memory import NEVER, Ids, Memory, hash_ids
from tallystream.topics.reader import PartitionReader
from tallystream.topics.registry import open_registry


class History(Protocol):
    """Where the ids of a partition's messages can be looked up again."""

    def begins(self, topic: str, partition: int) -> int:
        """The first offset that can still be read."""

    def ids(self, topic: str, partition: int, until: int) -> Iterator[tuple[np.ndarray, pa.ChunkedArray]]:
        """Offsets (int64) and event ids of all readable messages before `until`, in pieces."""


class LogHistory:
    """The retained log itself."""

    def __init__(self, settings: Settings):
        self._settings = settings

    def begins(self, topic: str, partition: int) -> int:
        """The start of the retained log."""
        return topic_logs(self._settings, [topic])[topic][1][partition][0]

    def ids(self, topic: str, partition: int, until: int) -> Iterator[tuple[np.ndarray, pa.ChunkedArray]]:
        """Reads and decodes the partition: some hundred thousand messages a second."""
        first, end = topic_logs(self._settings, [topic])[topic][1][partition]
        # A log that went back ends before the warehouse: waiting for its rest would be for ever.
        until = min(until, end)
        if first >= until:
            return
        decoder = Decoder(topic, open_registry(self._settings))
        reader = PartitionReader(kafka_config(self._settings), topic, partition, first, until)
        try:
            while not reader.done:
                batch = reader.read()
                if batch is not None:
                    decoded = decoder.decode(batch)
                    yield batch.offsets[decoded.rows], decoded.events["event_id"]
        finally:
            reader.close()


@dataclass
class Applied:
    """What is known of the ids applied in one partition.

    `memory`: the judge's, complete for events at or after `remembers_from`. `newest`: the greatest time applied,
    None before the first. Both in microseconds. `redriven`: ids that went back in before. `set_aside`: offsets of
    late and dead rows, which are no proof of being applied.
    """

    topic: str
    partition: int
    start_offset: int
    next_offset: int
    newest: int | None
    remembers_from: int
    memory: Memory
    redriven: set[str]
    set_aside: np.ndarray = field(repr=False)

    def copies(self, ids: pa.Array, times: np.ndarray, history: History) -> tuple[np.ndarray, np.ndarray]:
        """By event: is it a copy of an applied one, or of one before it here; and can that be known at all.

        `ids`, `times` (microseconds): the events in log order. What the judge still remembers is answered
        from memory; the log is read only for older events, up to the committed offset.
        """
        low, high = hash_ids(ids)
        order = np.argsort(low, kind="stable")
        remembered = np.empty(len(low), np.int64)
        remembered[order] = self.memory.newest(Ids(low[order], high[order], times[order]))
        copy = remembered != NEVER
        text = ids.to_pylist()
        seen = set(self.redriven)
        older = times < self.remembers_from
        asked = {text[i] for i in np.flatnonzero(older & ~copy).tolist()} - seen
        found, complete = self.in_history(asked, history) if asked else (set(), True)
        known = np.full(len(text), True)
        for i, name in enumerate(text):
            if name in seen or name in found:
                copy[i] = True
            elif name in asked and not complete:
                known[i] = False
            elif not copy[i]:
                seen.add(name)
        return copy, known

    def in_history(self, ids: set[str], history: History) -> tuple[set[str], bool]:
        """Those of the ids that a message outside the late and dead ones has, and whether all were looked at."""
        wanted = pa.array(sorted(ids), pa.string())
        found: set[str] = set()
        for offsets, names in history.ids(self.topic, self.partition, self.next_offset):
            hit = pc.is_in(names, value_set=wanted).to_numpy() & ~np.isin(offsets, self.set_aside)
            found.update(names.filter(pa.array(hit)).to_pylist())
        return found, history.begins(self.topic, self.partition) <= self.start_offset


def applied_of(con: duckdb.DuckDBPyConnection, topic: str, partition: int, redriven: Iterable[str]) -> Applied:
    """Reads what the warehouse knows of a partition."""
    row = con.execute(
        "SELECT start_offset, next_offset, epoch_us(max_event_time), (SELECT coalesce(min(horizon), 0) FROM ledger.rules r "
        "WHERE r.topic = o.topic AND r.partition = o.partition) FROM ledger.offsets o WHERE topic = ? AND partition = ?",
        [topic, partition],
    ).fetchone()
    start, until, newest, horizon = row or (0, 0, None, 0)
    blobs = con.execute(
        "SELECT memory FROM state.judge WHERE topic = ? AND partition = ? ORDER BY first_offset", [topic, partition]
    ).fetchall()
    aside = con.execute(
        'SELECT "offset" FROM main.late_events WHERE topic = $1 AND partition = $2 '
        'UNION SELECT "offset" FROM main.dead_letters WHERE topic = $1 AND partition = $2',
        [topic, partition],
    ).fetchnumpy()["offset"]
    # The least horizon there ever was: what a shorter one made the judge forget, a longer one does not bring back.
    since = NEVER if newest is None else newest - horizon * 1_000_000
    memory = Memory(bytes(blob) for (blob,) in blobs)
    return Applied(topic, partition, start, until, newest, since, memory, set(redriven), np.asarray(aside, np.int64))
