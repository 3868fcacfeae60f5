"""Which offsets, commits, schemas and code made a row of a view.

The ledger knows of each commit the span of its events' times: a commit whose span does not meet the row's cannot have
made it. Which of the events in the others did is told by reading those offsets again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from tallystream.database import connect
from tallystream.errors import UsageError, WarehouseError
from tallystream.settings import HEARTBEAT, Settings
from tallystream.store.objects import Store
from tallystream.topics.batch import DecodedBatch
from tallystream.topics.client import kafka_config, topic_logs
from tallystream.topics.decode import Decoder
from tallystream.topics.reader import PartitionReader
from tallystream.topics.registry import open_registry
from tallystream.views.loader import create_relations, install_macros
from tallystream.views.plan import ViewPlan, quote
from tallystream.views.shape import Grouped
from tallystream.views.shapes.attribution import AttributionPlan
from tallystream.views.shapes.grouped import GroupedPlan
from tallystream.warehouse.archive_read import archive_scan
from tallystream.warehouse.read import Reader

MOST = 10  # rows that are shown when the keys name several
HAS_REDRIVEN = "SELECT count(*) FROM duckdb_tables() WHERE schema_name = 'ledger' AND table_name = 'redriven'"


@dataclass(frozen=True)
class Row:
    """A row of a view, and the times [start, end) of the events that can have made it; None: unbounded."""

    values: dict[str, Any]
    start: datetime | None
    end: datetime | None


def find(reader: Reader, plan: ViewPlan, keys: Mapping[str, str]) -> Row:
    """The one row of which the columns named have these values, written as text.

    Raises:
        UsageError: a column is unknown, or no row or several have these values.
    """
    unknown = [k for k in keys if k not in plan.types]
    if unknown:
        raise UsageError(f"{plan.name} has no column {unknown[0]}; it has {', '.join(plan.types)}")
    told = " AND ".join(f"{quote(k)} IS NOT DISTINCT FROM {_literal(v, plan.types[k])}" for k, v in keys.items())
    where = f" WHERE {told}" if told else ""
    names, _, rows = reader.rows(f"SELECT * FROM main.{quote(plan.name)}{where} LIMIT {MOST + 1}")
    if len(rows) != 1:
        wanted = " ".join(f"{k}={v}" for k, v in keys.items()) or "no key"
        if not rows:
            raise UsageError(f"{plan.name} has no row with {wanted}; NULL is written as NULL, times in UTC")
        first = ", ".join(f"{n}={v}" for n, v in zip(names, rows[0], strict=True))
        more = "at least " if len(rows) > MOST else ""
        raise UsageError(
            f"{plan.name} has {more}{len(rows)} rows with {wanted}; name more columns; one of them: {first}"
        )
    values = dict(zip(names, rows[0], strict=True))
    return Row(values, *_span(plan, values))


def provenance(reader: Reader, plan: ViewPlan, row: Row) -> dict[str, Any]:
    """The commits that can have made the row: no other has an event in its span; with what the ledger says of them."""
    bounds = ", ".join("NULL" if t is None else f"TIMESTAMP '{t}'" for t in (row.start, row.end))
    names, _, found = reader.rows(
        f"SELECT * FROM provenance('{plan.name}', {bounds}) ORDER BY topic, partition, from_offset"
    )
    commits = [dict(zip(names, c, strict=True)) for c in found]
    if not commits:
        raise WarehouseError(
            f"{plan.name}: the ledger names no commit; a view that is being built has no provenance yet"
        )
    wanted = "', '".join(plan.topics)
    marks = reader.rows(f"SELECT topic, watermark FROM ledger.watermarks WHERE topic IN ('{wanted}') ORDER BY 1")[2]
    return {
        "view": plan.name,
        "view_version": commits[0]["view_version"],
        "row": row.values,
        "events_from": row.start,
        "events_until": row.end,
        "watermarks": dict(marks),
        "ranges": ranges(commits),
        "commits": {"first": min(c["first_commit"] for c in commits), "last": max(c["last_commit"] for c in commits)},
        "commit_rows": commits,
        "schema_ids": sorted({i for c in commits for i in c["schema_ids"]}),
        "code_versions": sorted({c["code_version"] for c in commits}),
        "redriven": _redriven(reader, plan, row),
    }


def ranges(commits: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The offsets [from, to) of the commits by partition, those that join as one."""
    found: list[dict[str, Any]] = []
    for c in commits:
        last = found[-1] if found else None
        if last and (last["topic"], last["partition"], last["to"]) == (c["topic"], c["partition"], c["from_offset"]):
            last["to"] = c["to_offset"]
        else:
            found.append(
                {"topic": c["topic"], "partition": c["partition"], "from": c["from_offset"], "to": c["to_offset"]}
            )
    return found


def exact(
    reader: Reader, settings: Settings, store: Store, plan: ViewPlan, row: Row, told: dict[str, Any]
) -> dict[str, Any]:
    """The very offsets, by reading the ranges again, and whether the view's SQL over those events gives the row.

    Returns:
        `offsets`: "topic/partition" -> offsets; `recomputed`: the row is what its SQL says of them.

    Raises:
        UsageError: the view is an attribution: its rows are made by what is *not* between two events, too.
        WarehouseError: neither log nor archive has a range any more.
    """
    if not isinstance(plan, GroupedPlan):
        raise UsageError(f"{plan.name} is an attribution: the ranges are told, single offsets are not")
    events: dict[str, pa.Table] = {}
    for topic in plan.topics:
        aside = _set_aside(reader, topic)
        parts = []
        for r in [*(r for r in told["ranges"] if r["topic"] == topic), *_singles(told["redriven"], topic)]:
            for decoded in _read(settings, store, topic, r["partition"], r["from"], r["to"]):
                parts.append(_accepted(decoded, aside.get(r["partition"], set())))
        events[topic] = pa.concat_tables(parts)
    with connect() as con:
        offsets = _offsets(con, plan, row, events)
        return {"offsets": offsets, "recomputed": _recomputed(con, plan, row)}


def _offsets(
    con: duckdb.DuckDBPyConnection, plan: GroupedPlan, row: Row, events: dict[str, pa.Table]
) -> dict[str, list[int]]:
    """Keeps the events of the row in tables named as their topics; their places by partition."""
    shape, offsets = plan.shape, dict[str, list[int]]()
    install_macros(con)
    create_relations(con)
    conditions = [f"({shape.where})"] if shape.where and not shape.session_key else []
    conditions += [f"event_time >= TIMESTAMP '{row.start}'"] if row.start else []
    conditions += [f"event_time < TIMESTAMP '{row.end}'"] if row.end else []
    parameters = []
    for output, sql in _key_outputs(shape):
        conditions.append(f"({sql}) IS NOT DISTINCT FROM CAST(? AS {plan.types[output]})")
        parameters.append(row.values[output])
    for topic, table in events.items():
        # Each event under its place: an event_id is unique in its partition only.
        con.register("all_events", table)
        con.execute(
            'CREATE OR REPLACE TEMP TABLE placed AS SELECT * EXCLUDE (event_id, "offset", partition), '
            "event_id AS real_id, partition || '/' || \"offset\" AS event_id FROM all_events "
            'QUALIFY row_number() OVER (PARTITION BY partition, event_id ORDER BY "offset") = 1'
        )
        columns = ", ".join(quote(n) for n, *_ in con.execute(f"DESCRIBE {topic}").fetchall())
        made = plan.relations[0].over(topic, "temp.placed")
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        chosen = f"SELECT DISTINCT event_id FROM {made}{where}"
        places = con.execute(chosen, parameters).fetchall()
        con.execute(
            f"INSERT INTO {topic} SELECT {columns} FROM placed SEMI JOIN ({chosen}) USING (event_id)", parameters
        )
        con.execute(f"UPDATE {topic} SET event_id = p.real_id FROM placed p WHERE p.event_id = {topic}.event_id")
        con.unregister("all_events")
        for (place,) in places:
            partition, _, offset = place.partition("/")
            offsets.setdefault(f"{topic}/{partition}", []).append(int(offset))
    return {where: sorted(at) for where, at in sorted(offsets.items())}


def _recomputed(con: duckdb.DuckDBPyConnection, plan: GroupedPlan, row: Row) -> bool:
    """Whether the view's SQL over the events kept by `_offsets` gives the row; a hop's events are in other windows too."""
    result = con.execute(f"SELECT * FROM ({plan.batch_sql()})")
    names = [d[0] for d in result.description or []]
    wanted = tuple(row.values[n] for n in names)
    return wanted in result.fetchall()


def _key_outputs(shape: Grouped) -> Iterator[tuple[str, str]]:
    for i, sql in enumerate(shape.keys):
        for output in shape.outputs:
            if output.sql == f"__k{i}__":
                yield output.name, sql
                break


def _span(plan: ViewPlan, values: Mapping[str, Any]) -> tuple[datetime | None, datetime | None]:
    if isinstance(plan, GroupedPlan) and plan.window is not None:
        named = {o.sql: values[o.name] for o in plan.shape.outputs if o.sql in ("window_start", "window_end")}
        start, end = named.get("window_start"), named.get("window_end")
        if plan.window.kind != "session":
            size = timedelta(microseconds=plan.window.size)
            start, end = start or (end - size if end else None), end or (start + size if start else None)
        return start, end
    if isinstance(plan, AttributionPlan) and "event_time" in plan.shape.left.columns:
        s = plan.shape
        column = f"rows.l{s.left.columns.index('event_time')}"
        times = [values[o.name] for o in s.outputs if o.sql == column]
        if times and s.guard is not None:
            reach = [timedelta(0), timedelta(microseconds=s.bound), timedelta(microseconds=s.guard)]
            return times[0] + min(reach), times[0] + max(reach) + timedelta(microseconds=1)
    return None, None


def _redriven(reader: Reader, plan: ViewPlan, row: Row) -> list[dict[str, Any]]:
    if not reader.rows(HAS_REDRIVEN)[2][0][0]:
        return []
    told = ["verdict = 'applied'", f"topic IN ({', '.join(repr(t) for t in plan.topics)})"]
    told += [f"event_time >= TIMESTAMP '{row.start}'"] if row.start else []
    told += [f"event_time < TIMESTAMP '{row.end}'"] if row.end else []
    names, _, rows = reader.rows(
        f'SELECT topic, partition, "offset", kind, redriven_at FROM ledger.redriven WHERE {" AND ".join(told)} ORDER BY 1, 2, 3'
    )
    return [dict(zip(names, r, strict=True)) for r in rows]


def _singles(redriven: list[dict[str, Any]], topic: str) -> Iterator[dict[str, Any]]:
    for r in redriven:
        if r["topic"] == topic:
            yield {"partition": r["partition"], "from": r["offset"], "to": r["offset"] + 1}


def _set_aside(reader: Reader, topic: str) -> dict[int, set[int]]:
    """By partition the offsets of late rows, and of dead ones that were decoded, that are in no view."""
    query = (
        f"SELECT partition, \"offset\" FROM late_events WHERE topic = '{topic}' "
        f"UNION ALL SELECT partition, \"offset\" FROM dead_letters WHERE topic = '{topic}'"
    )
    if reader.rows(HAS_REDRIVEN)[2][0][0]:
        query += (
            f" EXCEPT SELECT partition, \"offset\" FROM ledger.redriven WHERE topic = '{topic}' AND verdict = 'applied'"
        )
    found: dict[int, set[int]] = {}
    for partition, offset in reader.rows(query)[2]:
        found.setdefault(partition, set()).add(offset)
    return found


def _accepted(decoded: DecodedBatch, aside: set[int]) -> pa.Table:
    offsets = pa.array(decoded.raw.offsets[decoded.rows], pa.int64())
    table = decoded.events.append_column("offset", offsets)
    table = table.append_column("partition", pa.array([decoded.raw.partition] * len(offsets), pa.int32()))
    keep = pc.not_equal(table["event_type"], HEARTBEAT)
    if aside:
        keep = pc.and_(keep, pc.invert(pc.is_in(table["offset"], value_set=pa.array(sorted(aside), pa.int64()))))
    return table.filter(keep)


def _read(
    settings: Settings, store: Store, topic: str, partition: int, first: int, until: int
) -> Iterator[DecodedBatch]:
    """Decoded messages [first, until): from the archive what retention has removed from the log."""
    low = topic_logs(settings, [topic])[topic][1][partition][0]
    if first < low:
        yield from archive_scan(store, topic, partition, first, min(low, until))
        first = min(low, until)
    if first >= until:
        return
    decoder = Decoder(topic, open_registry(settings))
    reader = PartitionReader(kafka_config(settings), topic, partition, first, until)
    try:
        while not reader.done:
            raw = reader.read()
            if raw is not None:
                yield decoder.decode(raw)
    finally:
        reader.close()


def _literal(text: str, kind: str) -> str:
    if text == "NULL":
        return f"CAST(NULL AS {kind})"
    escaped = text.replace("'", "''")
    # 2026-03-01T12:00:00Z is a time with a zone, and all our times are UTC without one.
    return f"CAST('{escaped.removesuffix('Z') if kind == 'TIMESTAMP' else escaped}' AS {kind})"
