"""The archive: every message of the log up to the committed offsets, as Parquet, by offsets.

Replays reach past Kafka's retention through it. Each file holds offsets [first, next) of one partition and of one
hour of log time, and is named by them: written twice, it is the same file. See ADR 22.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tallystream.errors import LogWentBackError, WarehouseError
from tallystream.failpoints import hit
from tallystream.settings import Settings
from tallystream.store.objects import Store
from tallystream.topics.batch import DEAD_SCHEMA, DecodedBatch, RawBatch
from tallystream.topics.client import kafka_config, topic_logs
from tallystream.topics.decode import Decoder
from tallystream.topics.reader import PartitionReader
from tallystream.topics.registry import open_registry
from tallystream.warehouse.archive_files import events_of, schema_of, write_dead, write_events
from tallystream.warehouse.archive_index import AHEAD, Index, Span, commit, load, sweep

ROWS = 500_000  # messages a file at most: some ten megabytes, and bounded memory
HOUR_MS = 3_600_000


@dataclass
class Archived:
    """What one run did: messages and files written, and the offsets that retention removed unarchived."""

    messages: int = 0
    files: int = 0
    lost: list[tuple[str, int, int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Target:
    """How far a partition may be archived: `until` is the warehouse's committed offset, exclusive."""

    topic: str
    partition: int
    until: int
    topic_id: str | None


def targets(con: duckdb.DuckDBPyConnection) -> list[Target]:
    """The committed offsets of all partitions."""
    rows = con.execute(TARGETS).fetchall()
    return [Target(*row) for row in rows]


TARGETS = """
    SELECT o.topic, o.partition, o.next_offset, t.topic_id
    FROM ledger.offsets o LEFT JOIN ledger.topics t USING (topic) WHERE o.retired_at IS NULL
    ORDER BY 1, 2
"""


@contextmanager
def archive_lock(settings: Settings) -> Iterator[Path]:
    """One archiver or merger a TALLY_HOME; yields an empty scratch folder.

    Raises:
        WarehouseError: another one is at work.
    """
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    with (settings.run_dir / "archive.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WarehouseError("another `tally archive` is at work here; run again when it is done") from None
        scratch = settings.root / "archiving"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def archive(settings: Settings, store: Store, wanted: list[Target]) -> Archived:
    """Copies what the log has between the archive's end and each target; killed anywhere, run it again.

    Raises:
        LogWentBackError: the archive is of another topic of the same name; nothing was written.
        WarehouseError: another archiver is at work, or an index is damaged.
        BrokerError, StoreError: one of the two does not answer; what was committed stands.
    """
    done = Archived()
    with archive_lock(settings) as scratch:
        ranges: dict[str, Mapping[int, tuple[int, int]]] = {}
        for target in wanted:
            if target.topic not in ranges:
                ranges[target.topic] = topic_logs(settings, [target.topic])[target.topic][1]
            low, high = ranges[target.topic].get(target.partition, (0, 0))
            index = _open(store, target)
            sweep(store, index)
            index, begin = _begin(store, index, low, min(high, target.until), done)
            if begin < min(high, target.until):
                reader = PartitionReader(
                    kafka_config(settings), target.topic, target.partition, begin, min(high, target.until)
                )
                try:
                    _copy(_batches(reader), Decoder(target.topic, open_registry(settings)), store, scratch, index, done)
                finally:
                    reader.close()
    return done


def _open(store: Store, target: Target) -> Index:
    index = load(store, target.topic, target.partition)
    if index.spans and index.topic_id and target.topic_id and index.topic_id != target.topic_id:
        raise LogWentBackError(
            f"the archive of {target.topic}/{target.partition} in {store.url} is of another topic (id {index.topic_id}, "
            f"now {target.topic_id}): it was deleted and made anew; nothing was written: set TALLY_OBJECT_STORE to a new place"
        )
    return replace(index, topic_id=index.topic_id or target.topic_id)


def _begin(store: Store, index: Index, low: int, end: int, done: Archived) -> tuple[Index, int]:
    """Where to go on; offsets that retention took first become a span that says so."""
    begin = low if index.next is None else index.next
    if low <= begin or begin >= end:
        return index, begin
    lost = Span(begin, low, index.spans[-1].hour, lost=True)
    index = index.with_spans([*index.spans, lost])
    commit(store, index)
    done.lost.append((index.topic, index.partition, begin, low))
    return index, low


def _batches(reader: PartitionReader) -> Iterator[RawBatch]:
    while not reader.done:
        batch = reader.read()
        if batch is not None:
            yield batch


@dataclass
class _Open:
    """A file being gathered: offsets [first, next) of one hour."""

    first: int
    next: int
    hour: int
    events: list[pa.Table] = field(default_factory=list)
    dead: list[pa.Table] = field(default_factory=list)
    schema_ids: set[int] = field(default_factory=set)
    messages: int = 0


def _copy(
    batches: Iterator[RawBatch], decoder: Decoder, store: Store, scratch: Path, index: Index, done: Archived
) -> None:
    hour = index.spans[-1].hour if index.spans else 0
    latest = int(datetime.now(UTC).timestamp()) // 3600 + 1
    file: _Open | None = None
    fresh: list[Span] = []
    for raw in batches:
        hit("archive.after_read")
        decoded = decoder.decode(raw)
        for first, after, part_hour, part in pieces(decoded, hour, latest):
            hour = part_hour
            if file is not None and (file.hour != hour or file.messages >= ROWS):
                fresh.append(_flush(store, scratch, index, file, done))
                file = None
                if len(fresh) >= AHEAD:
                    index, fresh = _commit(store, index, fresh), []
            file = file or _Open(first, after, hour)
            file.next = after
            file.events.append(events_of(part))
            file.dead.append(part.dead)
            file.schema_ids.update(part.schema_ids)
            file.messages += len(part.raw.values)
    if file is not None:
        fresh.append(_flush(store, scratch, index, file, done))
    if fresh:
        _commit(store, index, fresh)


def pieces(decoded: DecodedBatch, hour: int, latest: int) -> Iterator[tuple[int, int, int, DecodedBatch]]:
    """(first, next, hour, part) of a batch cut where the hour of log time passes on.

    The hour is that of the greatest record timestamp so far in the partition: timestamps that go back, or are
    missing, stay in it, so that an hour is one stretch of offsets. Those after the hour `latest` count as missing:
    a producer's broken clock would otherwise end the hours of the partition for ever.
    """
    raw = decoded.raw
    told = raw.timestamps // HOUR_MS
    hours = np.maximum.accumulate(np.concatenate([[hour], np.where(told > latest, hour, told)]))[1:]
    cuts = [0, *(np.flatnonzero(np.diff(hours)) + 1).tolist(), len(hours)] if len(hours) else [0]
    if len(cuts) <= 2:
        yield raw.first, raw.next, int(hours[-1]) if len(hours) else hour, decoded
        return
    for i, j in pairwise(cuts):
        first = raw.first if i == 0 else int(raw.offsets[i])
        after = raw.next if j == len(hours) else int(raw.offsets[j])
        yield first, after, int(hours[i]), _slice(decoded, i, j, first, after)


def _slice(decoded: DecodedBatch, i: int, j: int, first: int, after: int) -> DecodedBatch:
    raw = decoded.raw
    part = RawBatch(
        raw.topic, raw.partition, first, after, raw.offsets[i:j], raw.timestamps[i:j], raw.keys[i:j], raw.values[i:j]
    )
    a, b = np.searchsorted(decoded.rows, [i, j]).tolist()
    inside = pc.and_(pc.greater_equal(decoded.dead["offset"], first), pc.less(decoded.dead["offset"], after))
    return DecodedBatch(
        part, decoded.events.slice(a, b - a), decoded.rows[a:b] - i, decoded.dead.filter(inside), decoded.schema_ids
    )


def _flush(store: Store, scratch: Path, index: Index, file: _Open, done: Archived) -> Span:
    """Writes a file; it counts when an index names it."""
    events = (
        pa.concat_tables(file.events, promote_options="none") if file.events else schema_of(index.topic).empty_table()
    )
    dead = pa.concat_tables(file.dead) if file.dead else DEAD_SCHEMA.empty_table()
    span = make_span(store, scratch, file.first, file.next, file.hour, events, dead, tuple(sorted(file.schema_ids)))
    done.messages += file.messages
    done.files += len(span.pieces)
    hit("archive.after_file")
    return span


def make_span(
    store: Store,
    scratch: Path,
    first: int,
    after: int,
    hour: int,
    events: pa.Table,
    dead: pa.Table,
    schema_ids: tuple[int, ...],
) -> Span:
    """Stores the rows of offsets [first, after) and says what they are."""
    times = pc.min_max(events["event_time"].cast(pa.int64())).as_py()
    return Span(
        first,
        after,
        hour,
        events.num_rows,
        dead.num_rows,
        times["min"],
        times["max"],
        schema_ids,
        write_events(store, scratch, events, first, after),
        write_dead(store, scratch, dead, first, after),
    )


def _commit(store: Store, index: Index, fresh: list[Span]) -> Index:
    index = index.with_spans([*index.spans, *fresh])
    hit("archive.before_index")
    commit(store, index)
    hit("archive.after_index")
    return index
