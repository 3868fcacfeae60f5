"""Reading the archive: as batches for replays, as ids for redrives, as relations for SQL."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import numpy as np
import pyarrow as pa

from tallystream.errors import WarehouseError
from tallystream.settings import TOPICS, Settings
from tallystream.store.objects import MissingError, Store
from tallystream.topics.batch import DEAD_SCHEMA, DecodedBatch
from tallystream.views.loader import RELATIONS
from tallystream.warehouse.archive_files import decoded_of, read, schema_of
from tallystream.warehouse.archive_index import Index, Span, load, partitions
from tallystream.warehouse.copies import LogHistory

MESSAGE = 'topic VARCHAR, partition INTEGER, "offset" BIGINT, record_time TIMESTAMP, key BLOB'
DEAD = 'topic VARCHAR, partition INTEGER, "offset" BIGINT, reason VARCHAR, detail VARCHAR, record_time TIMESTAMP, key BLOB, value BLOB'


def archived(store: Store, topic: str) -> dict[int, tuple[int, int]]:
    """By partition the offsets [first, next) that the archive has."""
    indexes = {p: load(store, topic, p) for p in partitions(store, topic)}
    return {p: (i.spans[0].first, i.spans[-1].next) for p, i in indexes.items() if i.spans}


def archive_scan(store: Store, topic: str, partition: int, from_offset: int, to_offset: int) -> Iterator[DecodedBatch]:
    """The messages of offsets [from_offset, to_offset) in log order, decoded as the judge takes them.

    Batches follow each other without gap, the last ends at `to_offset`. Values of events are None: they are decoded.

    Raises:
        WarehouseError: the archive does not have all of the range, or a file is damaged; the message names the offsets.
    """
    at = from_offset
    while at < to_offset:
        index = load(store, topic, partition)
        span = _span_at(index, at, to_offset, store)
        try:
            events, dead = read(store, span.events, schema_of(topic)), read(store, span.dead, DEAD_SCHEMA)
        except MissingError:
            # Merged into a larger file since the index was read: the newer index names that one.
            if load(store, topic, partition).sequence == index.sequence:
                raise
            continue
        after = min(span.next, to_offset)
        yield decoded_of(topic, partition, at, after, events, dead, span.schema_ids)
        at = after


def _span_at(index: Index, at: int, until: int, store: Store) -> Span:
    name = f"{index.topic}/{index.partition}"
    if not index.spans or at < index.spans[0].first or until > index.spans[-1].next:
        have = f"[{index.spans[0].first}, {index.spans[-1].next})" if index.spans else "nothing"
        raise WarehouseError(
            f"the archive in {store.url} has {have} of {name}, not offsets [{at}, {until}); run `tally archive`, or narrow the range"
        )
    span = next(s for s in index.spans if at < s.next)
    if span.lost:
        raise WarehouseError(
            f"{name}: retention removed offsets [{span.first}, {span.next}) before they were archived; choose a range without them"
        )
    return span


class FullHistory:
    """The archive, and after its end the log: for `tally redrive`, which asks for ids of long ago."""

    def __init__(self, settings: Settings, store: Store):
        self._store = store
        self._log = LogHistory(settings)

    def _archived(self, topic: str, partition: int) -> Index:
        """The index without what lies before the last lost offset."""
        index = load(self._store, topic, partition)
        lost = [i for i, s in enumerate(index.spans) if s.lost]
        return Index(topic, partition, spans=index.spans[lost[-1] + 1 :] if lost else index.spans)

    def begins(self, topic: str, partition: int) -> int:
        """The first offset from which on archive and log together have all."""
        index, low = self._archived(topic, partition), self._log.begins(topic, partition)
        if index.first is None or index.next is None or index.next < low:
            return low
        return min(index.first, low)

    def ids(self, topic: str, partition: int, until: int) -> Iterator[tuple[np.ndarray, pa.ChunkedArray]]:
        """Offsets and event ids before `until`."""
        index = self._archived(topic, partition)
        for span in index.spans:
            if span.first < until:
                table = read(self._store, span.events, schema_of(topic), ["offset", "event_id"])
                yield table["offset"].to_numpy(), table["event_id"]
        if index.next is None or index.next < until:
            yield from self._log.ids(topic, partition, until)


def attach_archive(con: duckdb.DuckDBPyConnection, store: Store) -> None:
    """Makes `archive.orders`, `archive.clicks` and `archive.dead_letters` of the files named by the indexes now.

    An attached database in memory holds the views: the warehouse may be open read-only. A file:// store only.
    Call it before external access is turned off, and allow the folder `store.root`.

    Raises:
        WarehouseError: the store is no folder of this machine.
    """
    if store.root is None:
        raise WarehouseError(
            f"SQL over the archive needs a file:// store; {store.url} is none: copy the archive here, or read it with DuckDB's httpfs"
        )
    con.execute("ATTACH IF NOT EXISTS ':memory:' AS archive")
    dead: list[str] = []
    for topic in TOPICS:
        spans = [s for p in partitions(store, topic) for s in load(store, topic, p).spans]
        _relation(con, store, topic, f"{MESSAGE}, {RELATIONS[topic]}", [s.events.path for s in spans if s.events])
        dead += [s.dead.path for s in spans if s.dead]
    _relation(con, store, "dead_letters", DEAD, dead)


def _relation(con: duckdb.DuckDBPyConnection, store: Store, name: str, columns: str, paths: list[str]) -> None:
    con.execute(f"CREATE OR REPLACE TABLE archive.main.nothing_{name} ({columns})")
    query = f"SELECT * FROM archive.main.nothing_{name}"
    if paths:
        files = ", ".join(
            "'" + str(store.root / path if store.root else path).replace("'", "''") + "'" for path in paths
        )
        query += f" UNION ALL BY NAME SELECT * FROM read_parquet([{files}], union_by_name = true)"
    con.execute(f"CREATE OR REPLACE VIEW archive.main.{name} AS {query}")
