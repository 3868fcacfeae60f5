"""The accepted events of a topic without the judge: archive and log, without what was set aside, each id once.

Asking the judge would prove the merge and not the judge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from tallystream.settings import Settings
from tallystream.store.objects import Store
from tallystream.topics.client import kafka_config, topic_logs
from tallystream.topics.decode import Decoder
from tallystream.topics.reader import PartitionReader
from tallystream.topics.registry import open_registry
from tallystream.warehouse.archive_files import events_of, read, schema_of
from tallystream.warehouse.archive_index import Index, load

EPOCH = datetime(1970, 1, 1)
MOST = 5_000_000  # messages of the log's tail that one check reads: beyond it, archive first
MOST_ARCHIVED = 20_000_000  # archived events that one check reads: some twenty seconds
Bounds = tuple[datetime | None, datetime | None]


@dataclass(frozen=True)
class Stretch:
    """One partition: offsets [start, until) that the warehouse has tallied.

    `refused`: those of late_events and dead_letters that are in no view.
    """

    topic: str
    partition: int
    start: int
    until: int
    refused: pa.Array

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.topic}/{self.partition}"


class Accepted:
    """Reads the events of some stretches whose time can be within one of `reach`."""

    def __init__(self, settings: Settings, store: Store, stretches: list[Stretch], reach: list[Bounds]):
        self._settings, self._store, self._reach = settings, store, [(_micros(a), _micros(b)) for a, b in reach]
        self._stretches = [(s, load(store, s.topic, s.partition)) for s in stretches]

    def problem(self) -> str | None:
        """Why they cannot be read: not all is there any more, or too much would be read; None when they can."""
        topics = sorted({s.topic for s, _ in self._stretches})
        logs = topic_logs(self._settings, topics)
        archived = 0
        for s, index in self._stretches:
            behind, low = _behind(s, index), logs[s.topic][1].get(s.partition, (0, 0))[0]
            first = index.first if index.first is not None else behind
            if low > behind or first > s.start or any(span.lost for span in index.spans):
                return f"neither log nor archive has all of {s.name}"
            if s.until - behind > MOST:
                return f"{s.until - behind:,} messages of {s.name} are not archived; run the archive job"
            archived += sum(span.rows for span in index.spans if self._near(span.min_event_time, span.max_event_time))
        if archived > MOST_ARCHIVED:
            return f"{archived:,} archived events can be of the sample, more than {MOST_ARCHIVED:,}; `tally replay` compares all"
        return None

    def tables(self, keep: Callable[[str, pa.Table], pa.Table]) -> Iterator[pa.Table]:
        """Pieces of the archive's columns, of which `keep` (topic, piece) leaves what is wanted."""
        for s, index in self._stretches:
            for table in self._pieces(s, index):
                inside = pc.and_(
                    pc.less(table["offset"], s.until), pc.invert(pc.is_in(table["offset"], value_set=s.refused))
                )
                kept = keep(s.topic, table.filter(inside))
                if kept.num_rows:
                    yield kept

    def _pieces(self, s: Stretch, index: Index) -> Iterator[pa.Table]:
        schema = schema_of(s.topic)
        for span in index.spans:
            if span.events and self._near(span.min_event_time, span.max_event_time):
                yield read(self._store, span.events, schema)
        behind = _behind(s, index)
        if behind >= s.until:
            return
        decoder = Decoder(s.topic, open_registry(self._settings))
        reader = PartitionReader(kafka_config(self._settings), s.topic, s.partition, behind, s.until)
        try:
            while not reader.done:
                raw = reader.read()
                if raw is not None:
                    yield events_of(decoder.decode(raw))
        finally:
            reader.close()

    def _near(self, least: int | None, greatest: int | None) -> bool:
        if least is None or greatest is None:
            return False
        return any((b is None or least < b) and (a is None or greatest >= a) for a, b in self._reach)


def _behind(s: Stretch, index: Index) -> int:
    """Where the archive ends and the log is read."""
    return index.next if index.next is not None else s.start


def _micros(time: datetime | None) -> int | None:
    return None if time is None else (time - EPOCH) // timedelta(microseconds=1)
