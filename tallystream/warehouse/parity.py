"""Parity: what the stream kept, row by row, is what the view's own SQL gives over the accepted events at once.

The accepted events are not asked of the judge: they are all events of the archive and of the log behind it, without
the rows of late_events and dead_letters, each event_id of a partition once. So a fault of the judge, of a plan, of a
merge or of a restart shows, whichever it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tallystream.database import connect
from tallystream.settings import HEARTBEAT, Settings
from tallystream.store.objects import Store
from tallystream.topics.client import kafka_config, topic_logs
from tallystream.topics.decode import Decoder
from tallystream.topics.reader import PartitionReader
from tallystream.topics.registry import open_registry
from tallystream.views.loader import create_relations, install_macros
from tallystream.views.plan import ViewPlan, quote
from tallystream.warehouse.archive_files import events_of, read, schema_of
from tallystream.warehouse.archive_index import load
from tallystream.warehouse.read import Reader, open_reader

SCALE = 10**6  # microseconds
MOST = 5_000_000  # messages of the log's tail that one check reads: beyond it, archive first
KINDS = ("tumble", "hop")
HAS_REDRIVEN = "SELECT count(*) FROM duckdb_tables() WHERE schema_name = 'ledger' AND table_name = 'redriven'"


@dataclass(frozen=True)
class Compared:
    """One view's parity: windows sampled, rows compared, events read; up to ten rows that differ, as sentences.

    `skipped` says why nothing was compared, else None.
    """

    view: str
    windows: int = 0
    rows: int = 0
    events: int = 0
    differing: int = 0
    examples: tuple[str, ...] = ()
    skipped: str | None = None


def parity(settings: Settings, store: Store, plan: ViewPlan, windows: int, seed: int) -> Compared:
    """Recomputes `windows` final windows of a view, chosen by `seed`, and compares them with the rows kept.

    Raises:
        WarehouseError: there is no warehouse, or the archive is damaged.
        BrokerError: the log cannot be read.
    """
    if plan.window is None or plan.window.kind not in KINDS or len(plan.topics) != 1:
        return Compared(
            plan.name,
            skipped="only tumble and hop windows of one topic are sampled; `replay` in mode diff compares all",
        )
    topic = plan.topics[0]
    with open_reader(settings) as reader:
        if reader.rows(f"SELECT count(*) FROM ledger.resets WHERE topic = '{topic}'")[2][0][0]:
            return Compared(plan.name, skipped="offsets of its topic were reset by hand: the log is not what it was")
        chosen = _choose(reader, plan, windows, seed)
        if not chosen:
            return Compared(plan.name, skipped="no window is final yet")
        kept, until = _kept(reader, plan, chosen)
        refused = _refused(reader, topic)
        starts = dict(reader.rows(f"SELECT partition, start_offset FROM ledger.offsets WHERE topic = '{topic}'")[2])
    reach = [(start, start + plan.window.size) for start in chosen]
    lows = {p: low for p, (low, _) in topic_logs(settings, [topic])[topic][1].items()}
    parts: list[pa.Table] = []
    for partition, end in sorted(until.items()):
        index = load(store, topic, partition)
        behind = index.next if index.next is not None else starts[partition]
        first = index.first if index.first is not None else behind
        if (
            max(behind, lows.get(partition, 0)) > behind
            or first > starts[partition]
            or any(s.lost for s in index.spans)
        ):
            return Compared(plan.name, skipped=f"neither log nor archive has all of {topic}/{partition}")
        if end - behind > MOST:
            return Compared(
                plan.name,
                skipped=f"{end - behind:,} messages of {topic}/{partition} are not archived; run the archive job",
            )
        for table in _events(settings, store, topic, partition, behind, end, reach):
            parts.append(_accepted(table, refused.get(partition), end))
    events = pa.concat_tables(parts) if parts else schema_of(topic).empty_table()
    made = recompute(plan, events, chosen)
    names = [*kept.column_names]
    a, b = _bag(kept, names), _bag(made, names)
    missing = [r for r in b if a.get(r, 0) < b[r]]
    extra = [r for r in a if b.get(r, 0) < a[r]]
    told = [f"missing from the view: {dict(zip(names, r, strict=True))}" for r in missing]
    told += [f"only in the view: {dict(zip(names, r, strict=True))}" for r in extra]
    return Compared(plan.name, len(chosen), kept.num_rows, events.num_rows, len(told), tuple(told[:10]))


def recompute(plan: ViewPlan, events: pa.Table, chosen: Sequence[int]) -> pa.Table:
    """The view's rows of the windows that begin at `chosen` (microseconds), from accepted events of one topic.

    `events`: columns of the archive; each event_id of a partition counts once, the first by offset.
    """
    with connect() as con:
        install_macros(con)
        create_relations(con)
        con.register("all_events", events)
        topic = plan.topics[0]
        columns = ", ".join(quote(name) for name, *_ in con.execute(f"DESCRIBE {topic}").fetchall())
        con.execute(
            f"INSERT INTO {topic} SELECT {columns} FROM all_events WHERE event_type <> '{HEARTBEAT}' "
            'QUALIFY row_number() OVER (PARTITION BY partition, event_id ORDER BY "offset") = 1'
        )
        starts = ", ".join(f"make_timestamp({int(c)})" for c in chosen)
        return con.execute(f"SELECT * FROM ({plan.batch_sql()}) WHERE window_start IN ({starts})").to_arrow_table()


def _choose(reader: Reader, plan: ViewPlan, windows: int, seed: int) -> list[int]:
    query = (
        f"SELECT w FROM (SELECT DISTINCT epoch_us(window_start) AS w FROM {quote(plan.name)} WHERE is_final) "
        f"ORDER BY hash(w, {int(seed)}) LIMIT {int(windows)}"
    )
    return [row[0] for row in reader.rows(query)[2]]


def _kept(reader: Reader, plan: ViewPlan, chosen: list[int]) -> tuple[pa.Table, dict[int, int]]:
    """The rows kept of these windows, and how far the stream had committed: final windows get no more events."""
    topic = plan.topics[0]
    until = dict(reader.rows(f"SELECT partition, next_offset FROM ledger.offsets WHERE topic = '{topic}'")[2])
    starts = ", ".join(f"make_timestamp({c})" for c in chosen)
    kept = reader.arrow(f"SELECT * EXCLUDE (is_final) FROM {quote(plan.name)} WHERE window_start IN ({starts})")
    return kept, until


def _refused(reader: Reader, topic: str) -> dict[int, pa.Array[Any]]:
    """By partition the offsets of late and dead rows that are in no view."""
    query = (
        f"SELECT partition, \"offset\" FROM late_events WHERE topic = '{topic}' "
        f"UNION ALL SELECT partition, \"offset\" FROM dead_letters WHERE topic = '{topic}'"
    )
    if reader.rows(HAS_REDRIVEN)[2][0][0]:
        query = (
            f'SELECT * FROM ({query}) ANTI JOIN (SELECT partition, "offset" FROM ledger.redriven '
            f"WHERE topic = '{topic}' AND verdict = 'applied') USING (partition, \"offset\")"
        )
    table = reader.arrow(query)
    return {
        p: table.filter(pc.equal(table["partition"], p))["offset"].combine_chunks()
        for p in pc.unique(table["partition"]).to_pylist()
    }


def _events(
    settings: Settings, store: Store, topic: str, partition: int, behind: int, end: int, reach: list[tuple[int, int]]
) -> Iterator[pa.Table]:
    """Events whose time is within reach, of the archive up to `behind` and of the log after it."""
    schema = schema_of(topic)
    for span in load(store, topic, partition).spans:
        low, high = span.min_event_time, span.max_event_time
        if span.events and low is not None and high is not None and any(low < b and high >= a for a, b in reach):
            yield _within(read(store, span.events, schema), reach)
    if behind >= end:
        return
    decoder = Decoder(topic, open_registry(settings))
    reader = PartitionReader(kafka_config(settings), topic, partition, behind, end)
    try:
        while not reader.done:
            raw = reader.read()
            if raw is not None:
                yield _within(events_of(decoder.decode(raw)), reach)
    finally:
        reader.close()


def _within(table: pa.Table, reach: list[tuple[int, int]]) -> pa.Table:
    times = table["event_time"].cast(pa.timestamp("us")).cast(pa.int64())
    keep = pa.chunked_array([pa.repeat(pa.scalar(False), len(times))]) if len(times) else pc.less(times, 0)
    for a, b in reach:
        keep = pc.or_(keep, pc.and_(pc.greater_equal(times, a), pc.less(times, b)))
    return table.filter(keep)


def _accepted(table: pa.Table, refused: pa.Array[Any] | None, end: int) -> pa.Table:
    keep = pc.less(table["offset"], end)
    if refused is not None:
        keep = pc.and_(keep, pc.invert(pc.is_in(table["offset"], value_set=refused)))
    return table.filter(keep)


def _bag(table: pa.Table, names: list[str]) -> Mapping[tuple[Any, ...], int]:
    found: dict[tuple[Any, ...], int] = {}
    for row in zip(*(table[n].to_pylist() for n in names), strict=True):
        found[row] = found.get(row, 0) + 1
    return found
