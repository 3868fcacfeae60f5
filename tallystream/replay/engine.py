"""The replay itself: the log from its beginning, judged as live, into a DuckDB file of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from tallystream.database import connect
from tallystream.replay.request import Key, ReplayRequest, Span
from tallystream.settings import Settings
from tallystream.store.objects import Store
from tallystream.topics.batch import DecodedBatch, Delta
from tallystream.topics.client import kafka_config
from tallystream.topics.decode import Decoder
from tallystream.topics.judge import Judge
from tallystream.topics.reader import PartitionReader
from tallystream.topics.registry import open_registry
from tallystream.topics.rule_history import RuleHistory
from tallystream.views.plan import ViewPlan
from tallystream.views.tally import Tallier
from tallystream.warehouse.archive_read import archive_scan, archived
from tallystream.warehouse.commit import Committer
from tallystream.warehouse.prepare import TopicLog, prepare
from tallystream.warehouse.schema import migrate

Progress = Callable[[int, int], None]
COMMIT_EVENTS = 500_000  # messages of one commit of the sandbox


@dataclass
class Region:
    """Event times that the range holds alone: no event outside it is in (after, before). Microseconds; None: unbounded."""

    after: int | None = None
    before: int | None = None

    def leave_out(self, low: int | None, high: int | None) -> None:
        """Events up to `low`, or from `high` on, are outside."""
        if low is not None:
            self.after = low if self.after is None else max(self.after, low)
        if high is not None:
            self.before = high if self.before is None else min(self.before, high)

    @property
    def whole(self) -> bool:
        """Whether nothing is outside."""
        return self.after is None and self.before is None


@dataclass
class Replayed:
    """What the replay did: messages and accounts of the range, and by topic which event times are its own."""

    read: int = 0
    accounts: dict[str, dict[str, int]] = field(default_factory=dict)
    regions: dict[str, Region] = field(default_factory=dict)


def open_sandbox(path: Path) -> duckdb.DuckDBPyConnection:
    """A new warehouse file with nothing in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    con = connect(path)
    migrate(con)
    return con


def run(
    con: duckdb.DuckDBPyConnection,
    settings: Settings,
    store: Store,
    request: ReplayRequest,
    spans: Mapping[Key, Span],
    rules: Mapping[Key, RuleHistory],
    plans: Mapping[str, ViewPlan],
    everything: bool,
    progress: Progress | None = None,
) -> Replayed:
    """Reads every partition from the first offset tallied, judges it by the rules of then, and tallies.

    `everything`: all events go into the views, for a comparison; else those of the range alone. `rules`: by partition.

    Raises:
        BrokerError, WarehouseError: the source cannot be read.
    """
    now = datetime.now(UTC).replace(tzinfo=None)
    logs: dict[str, dict[int, tuple[int, int]]] = {}
    for (topic, partition), s in spans.items():
        logs.setdefault(topic, {})[partition] = (s.start if everything else s.first, s.until)
    prepare(con, plans, {t: TopicLog(None, ranges) for t, ranges in logs.items()}, settings, now)
    committer = Committer(con, dict(plans), settings.lateness * 10**6, settings.horizon * 10**6)
    tallier = Tallier(plans)
    done = Replayed(regions={t: Region() for t, _ in spans})
    total, seen, began = sum(s.until - s.start for s in spans.values()), 0, time.monotonic()
    for (topic, partition), span in sorted(spans.items()):
        if not everything and span.first >= span.last:
            continue  # nothing of it is asked for
        history = rules[topic, partition]
        judge = Judge(topic, partition, history.at(span.start))
        pending: list[Delta] = []
        stops = sorted({span.first, span.last, *(at for at, _ in history.steps)})
        until = span.until if everything else span.last
        for decoded in _read(settings, store, request, topic, partition, span.start, until, stops):
            raw = decoded.raw
            judge.follow(history.at(raw.first))
            b = judge.judge(decoded)
            inside = span.first <= raw.first < span.last
            seen += raw.next - raw.first
            if not inside and b.applied.num_rows:
                low, high = (b.memory_max_time, None) if raw.first < span.first else (None, b.min_event_time)
                done.regions[topic].leave_out(low, high)
            if inside:
                done.read += b.consumed
                told = done.accounts.setdefault(
                    f"{topic}/{partition}", dict.fromkeys(("consumed", "applied", "duplicate", "late", "dead"), 0)
                )
                counts = (b.consumed, b.applied.num_rows, b.duplicate, b.late.num_rows, b.dead.num_rows)
                for name, n in zip(told, counts, strict=True):
                    told[name] += n
            if inside or everything:
                events = b.applied if everything else _within(b.applied, *request.event_times)
                delta = Delta(
                    topic, partition, b.first, b.next, b.consumed, b.applied.num_rows, b.duplicate, b.late, b.dead, 0,
                    b.memory, b.memory_max_time, b.max_event_time, b.schema_ids, tallier.tally(topic, events),
                    min_event_time=b.min_event_time,
                )  # fmt: skip
                pending.append(delta)
            if sum(d.consumed for d in pending) >= COMMIT_EVENTS:
                committer.commit(pending, now)
                pending = []
            if progress is not None:
                progress(seen, total)
            if request.rate:
                time.sleep(max(0.0, seen / request.rate - (time.monotonic() - began)))
        if pending:
            committer.commit(pending, now)
    # A partition that was not asked for lies outside with all its events, wherever they are in time.
    for (topic, _), span in spans.items():
        if topic in request.topics and span.first >= span.last and span.until > span.start:
            done.regions[topic].leave_out(2**62, -(2**62))
    return done


def _read(
    settings: Settings,
    store: Store,
    request: ReplayRequest,
    topic: str,
    partition: int,
    start: int,
    until: int,
    stops: list[int],
) -> Iterator[DecodedBatch]:
    """Decoded batches of [start, until) in log order, none across a stop."""
    at = start
    if request.source == "archive":
        _, after = archived(store, topic).get(partition, (start, start))
        while at < min(after, until):
            end = min([s for s in (*stops, after, until) if s > at])
            yield from archive_scan(store, topic, partition, at, end)
            at = end
    if at >= until:
        return
    decoder = Decoder(topic, open_registry(settings))
    reader = PartitionReader(kafka_config(settings), topic, partition, at, until)
    try:
        while not reader.done:
            raw = reader.read(stop_at=min((s for s in stops if s > reader.position), default=None))
            if raw is not None:
                yield decoder.decode(raw)
    finally:
        reader.close()


def _within(events: pa.Table, low: datetime | None, high: datetime | None) -> pa.Table:
    for bound, keeps in ((low, pc.greater_equal), (high, pc.less)):
        if bound is not None:
            events = events.filter(
                keeps(events["event_time"], pa.scalar(bound, events.schema.field("event_time").type))
            )
    return events


def narrowed(region: Region, times: tuple[datetime | None, datetime | None]) -> Region:
    """The region within a range of event times."""
    low, high = (None if t is None else int((t - datetime(1970, 1, 1)).total_seconds() * 10**6) for t in times)
    made = replace(region)
    made.leave_out(None if low is None else low - 1, high)
    return made
