"""The restore drill: the newest snapshot is restored beside the live warehouse, brought up to it, and compared.

A snapshot that nobody has restored is a hope. The drill does all that a real recovery would do, on the same machine
and from the same store, and says how long it took and how much would have to be read again.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from tallystream.settings import Settings
from tallystream.store.objects import Store
from tallystream.topics.batch import DecodedBatch, Delta
from tallystream.topics.client import kafka_config, topic_logs
from tallystream.topics.decode import Decoder
from tallystream.topics.judge import Judge, Rules
from tallystream.topics.reader import PartitionReader
from tallystream.topics.registry import open_registry
from tallystream.views.plan import ViewPlan, quote
from tallystream.views.tally import Tallier
from tallystream.warehouse.archive_read import archive_scan
from tallystream.warehouse.commit import Committer
from tallystream.warehouse.control import open_prepared, run_lock
from tallystream.warehouse.prepare import PartitionStart, TopicLog, starts
from tallystream.warehouse.read import open_reader
from tallystream.warehouse.restore import restore

# What changes rows and is not in the log, by the table that tells of it: made by the first redrive, the first promotion.
MADE = (
    "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'ledger' AND table_name IN ('redriven', 'promotions')"
)
REDRIVEN = "SELECT count(*) FROM ledger.redriven"
PROMOTED = "SELECT view, id, undone_at FROM ledger.promotions"


@dataclass(frozen=True)
class Seen:
    """One committed state: offsets by (topic, partition), and of each view its rows counted and hashed."""

    offsets: dict[tuple[str, int], int]
    views: dict[str, tuple[int, str]]


@dataclass
class Drilled:
    """What a drill found. Times are seconds.

    `rpo_seconds`: age of the snapshot, what would be lost if the log went with the warehouse; with the log it is nothing, but
    `tail_messages` must be read again. `differing`: views that were not as the live ones. `not_compared`: view -> why.
    """

    snapshot: str
    passed_over: list[str]
    rows: int
    bytes: int
    rpo_seconds: float
    restore_seconds: float
    tail_seconds: float
    tail_messages: int
    compared: list[str] = field(default_factory=list)
    differing: dict[str, str] = field(default_factory=dict)
    not_compared: dict[str, str] = field(default_factory=dict)

    @property
    def rto_seconds(self) -> float:
        """From nothing to as far as the live stream."""
        return self.restore_seconds + self.tail_seconds

    @property
    def good(self) -> bool:
        """Whether a recovery would have given the live views, from the newest snapshot."""
        return not self.passed_over and not self.differing


def drill(settings: Settings, store: Store, plans: Mapping[str, ViewPlan], now: datetime) -> Drilled:
    """Restores into TALLY_HOME/drill, reads the tail of the log, and compares with the live views; removes it all after.

    `now`: UTC, naive. The live warehouse and its stream are only read.

    Raises:
        WarehouseError: no snapshot can be restored, or neither log nor archive has the tail.
    """
    scratch = settings.root / "drill"
    with _emptied(scratch):
        there = settings.model_copy(update={"home": scratch, "object_store": store.url})
        there.__dict__.pop("root", None)  # cached for the other home
        began = time.monotonic()
        with run_lock(there):
            done = restore(there, store)
            restored = time.monotonic()
            with open_prepared(there) as con:
                shared, unlike = _views(con, settings, plans)
                live = seen(settings, shared)
                messages = _catch_up(con, settings, store, shared, live.offsets)
                caught_up = time.monotonic()
                found = _look(con, shared)
    result = Drilled(
        snapshot=done.manifest.name,
        passed_over=done.passed_over,
        rows=done.manifest.rows,
        bytes=done.manifest.size,
        rpo_seconds=(now - datetime.fromisoformat(done.manifest.taken_at.rstrip("Z"))).total_seconds(),
        restore_seconds=restored - began,
        tail_seconds=caught_up - restored,
        tail_messages=messages,
        not_compared=unlike,
    )
    for name in shared:
        result.compared.append(name)
        if found.views[name] != live.views[name]:
            a, b = found.views[name], live.views[name]
            result.differing[name] = f"{a[0]:,} rows restored, {b[0]:,} live" + (
                ", other values" if a[0] == b[0] else ""
            )
    return result


@contextlib.contextmanager
def _emptied(folder: Path) -> Iterator[None]:
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _views(
    con: duckdb.DuckDBPyConnection, settings: Settings, plans: Mapping[str, ViewPlan]
) -> tuple[dict[str, ViewPlan], dict[str, str]]:
    """The views that both have, whole, of one definition, and amended alike; and why the others cannot be compared."""
    query = "SELECT name, version FROM ledger.views WHERE status = 'live'"
    snapshot, before = dict(con.execute(query).fetchall()), _amended(lambda sql: con.execute(sql).fetchall())
    with open_reader(settings) as reader:
        live, after = dict(reader.rows(query)[2]), _amended(lambda sql: reader.rows(sql)[2])
    shared: dict[str, ViewPlan] = {}
    unlike: dict[str, str] = {}
    for name, plan in plans.items():
        swapped = sorted({i for i, _ in before.promoted.get(name, set()) ^ after.promoted.get(name, set())})
        if not snapshot.get(name) == live.get(name) == plan.version:
            unlike[name] = "the snapshot has another definition of it, or it was being built"
        elif before.redriven != after.redriven:
            unlike[name] = "late or dead rows were redriven after the snapshot; the tail does not hold them"
        elif swapped:
            numbers = ", ".join(str(i) for i in swapped)
            unlike[name] = f"promoted or undone after the snapshot (promotion {numbers}); the tail does not hold that"
        else:
            shared[name] = plan
    con.execute("DELETE FROM ledger.views WHERE status = 'building'")
    return shared, unlike


@dataclass(frozen=True)
class _Amended:
    """Rows redriven, and by view the promotions with the time that each was undone."""

    redriven: int
    promoted: dict[str, set[tuple[int, datetime | None]]]


def _amended(rows: Callable[[str], list[tuple[Any, ...]]]) -> _Amended:
    made = {name for (name,) in rows(MADE)}
    promoted: dict[str, set[tuple[int, datetime | None]]] = {}
    for view, number, undone in rows(PROMOTED) if "promotions" in made else []:
        promoted.setdefault(view, set()).add((number, undone))
    return _Amended(rows(REDRIVEN)[0][0] if "redriven" in made else 0, promoted)


def seen(settings: Settings, views: Mapping[str, ViewPlan]) -> Seen:
    """One committed state of the live warehouse, in one query: a stream commits between two."""
    with open_reader(settings) as reader:
        return _seen(reader.rows(_state_sql(views))[2][0], views)


def _look(con: duckdb.DuckDBPyConnection, views: Mapping[str, ViewPlan]) -> Seen:
    row = con.execute(_state_sql(views)).fetchone()
    assert row is not None
    return _seen(row, views)


def _state_sql(views: Mapping[str, ViewPlan]) -> str:
    parts = ["(SELECT list(struct_pack(t := topic, p := partition, n := next_offset)) FROM ledger.offsets)"]
    for name in views:
        parts.append(
            f'(SELECT struct_pack(n := count(*), h := coalesce(sum(hash("_row")::HUGEINT), 0)::VARCHAR) FROM {quote(name)} AS "_row")'
        )
    return f"SELECT {', '.join(parts)}"


def _seen(row: tuple[Any, ...], views: Mapping[str, ViewPlan]) -> Seen:
    offsets = {(o["t"], o["p"]): o["n"] for o in row[0] or []}
    return Seen(offsets, {name: (told["n"], told["h"]) for name, told in zip(views, row[1:], strict=True)})


def _catch_up(
    con: duckdb.DuckDBPyConnection,
    settings: Settings,
    store: Store,
    plans: dict[str, ViewPlan],
    until: Mapping[tuple[str, int], int],
) -> int:
    """Reads each partition from the restored offset to `until`, and commits as the stream would; returns the messages."""
    topics = sorted({topic for topic, _ in until})
    logs = {t: TopicLog(i, r) for t, (i, r) in topic_logs(settings, topics).items()}
    rules = Rules(settings.lateness * 1_000_000, settings.horizon * 1_000_000, settings.max_ahead * 1_000_000)
    committer = Committer(con, plans, rules.lateness_us, rules.horizon_us)
    tallier = Tallier(plans)
    messages = 0
    for start in starts(con, logs):
        end = until.get((start.topic, start.partition), start.live_from)
        judge = Judge(start.topic, start.partition, rules, start.max_event_time, start.memory)
        for decoded in _tail(settings, store, start, logs[start.topic].ranges[start.partition][0], end):
            b = judge.judge(decoded)
            partials = tallier.tally(b.topic, b.applied, None)
            delta = Delta(
                b.topic, b.partition, b.first, b.next, b.consumed, b.applied.num_rows, b.duplicate, b.late, b.dead, 0,
                b.memory, b.memory_max_time, b.max_event_time, b.schema_ids, partials, frozenset(), b.min_event_time,
            )  # fmt: skip
            committer.commit([delta], datetime.min.replace(year=1970))
            messages += b.consumed
    return messages


def _tail(settings: Settings, store: Store, start: PartitionStart, low: int, end: int) -> Iterator[DecodedBatch]:
    """Decoded messages [start.live_from, end): from the archive where retention has removed the log."""
    at = start.live_from
    if at < low < end or (at < end <= low):
        yield from archive_scan(store, start.topic, start.partition, at, min(low, end))
        at = min(low, end)
    if at >= end:
        return
    decoder = Decoder(start.topic, open_registry(settings))
    reader = PartitionReader(kafka_config(settings), start.topic, start.partition, at, end)
    try:
        while not reader.done:
            raw = reader.read()
            if raw is not None:
                yield decoder.decode(raw)
    finally:
        reader.close()
