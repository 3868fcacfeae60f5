"""Redrive: late events and dead letters go back into the views, each once, in one transaction.

The verdicts stand: a row stays in late_events or dead_letters, in its account, with its offset, for they are
a function of the log. What is new is `ledger.redriven`, whose key is the offset: a row in it is in the
views too. Row, views and mark are committed together, so a crash before COMMIT leaves all of it to be done
again, a crash after it nothing.
"""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from tallystream.database import rollback
from tallystream.errors import QueryError, WarehouseError
from tallystream.failpoints import hit
from tallystream.settings import Settings
from tallystream.topics.batch import DecodedBatch
from tallystream.topics.decode import Decoder
from tallystream.topics.memory import Ids, hash_ids, pack
from tallystream.topics.registry import open_registry
from tallystream.views.loader import load_view
from tallystream.views.plan import ViewPlan
from tallystream.views.tally import Tallier
from tallystream.warehouse.cold import forgotten_before
from tallystream.warehouse.copies import Applied, History, applied_of
from tallystream.warehouse.redriven import TABLE, TABLES, Kind, merge, messages

# Rows of one transaction: a live stream's commits wait for it, for well below a second.
CHUNK = 20_000
EPOCH = datetime(1970, 1, 1)


@dataclass
class Summary:
    """What became of the rows that were chosen, in rows; `applied` + … + `settled` is their number.

    applied: in the views now. duplicate: the event is in them already, under another offset. Both are done
    with. The others stay to be redriven again: undecodable (dead as before), ahead (of their own timestamp,
    as before), waiting (younger than the lateness while a stream runs: a copy of theirs could still be
    applied), unproven (so old that neither judge nor history can tell whether they are copies), settled (so old that
    compaction dropped the members that a distinct count would need: a replay of their windows amends them).
    """

    applied: int = 0
    duplicate: int = 0
    undecodable: int = 0
    ahead: int = 0
    waiting: int = 0
    unproven: int = 0
    settled: int = 0

    def add(self, other: Summary) -> None:
        """Sums up."""
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))


@dataclass
class _Verdicts:
    """The decoded events of one chunk, masks over them, and what could not be decoded."""

    decoded: DecodedBatch
    times: np.ndarray
    applied: np.ndarray
    duplicate: np.ndarray
    young: np.ndarray
    summary: Summary


def redrive(
    con: duckdb.DuckDBPyConnection,
    settings: Settings,
    kind: Kind,
    where: str | None,
    now: datetime,
    history: History,
    lock: AbstractContextManager[object],
    live: bool,
) -> Summary:
    """Puts the rows of late_events or dead_letters that `where` chooses back into the views, once each.

    `con`: the writer's connection; `lock` keeps its commits away from it during a transaction. `live`: judges
    are running somewhere, with memories of their own. Windows that were final are amended. Cut short, it is
    begun again with the same call; what was committed is not chosen any more. `now` is UTC, naive.

    Raises:
        QueryError: `where` is no condition over the table's columns; nothing was changed.
        WarehouseError: the views in the warehouse are not those of this code; nothing was changed.
    """
    total = Summary()
    with lock:
        con.execute(TABLE)
    reader = con.cursor()
    try:
        plans = live_plans(reader)
        tallier = Tallier(plans)
        for topic, partition, offsets in _choose(reader, kind, where):
            decoder = Decoder(topic, open_registry(settings))
            for at in range(0, len(offsets), CHUNK):
                raw = messages(reader, kind, topic, partition, offsets[at : at + CHUNK])
                done = reader.execute(
                    "SELECT event_id FROM ledger.redriven WHERE topic = ? AND partition = ? AND verdict = 'applied'",
                    [topic, partition],
                ).fetchall()
                applied = applied_of(reader, topic, partition, (name for (name,) in done))
                with lock:
                    before = forgotten_before(con, plans, topic)
                verdicts = judge_again(decoder.decode(raw), applied, history, settings, live, before)
                with lock:
                    _commit(con, kind, verdicts, tallier, plans, now)
                total.add(verdicts.summary)
    finally:
        reader.close()
    return total


def _choose(con: duckdb.DuckDBPyConnection, kind: Kind, where: str | None) -> list[tuple[str, int, np.ndarray]]:
    """(topic, partition, offsets ascending) of the rows chosen and not redriven yet."""
    if where is not None and not where.strip():
        raise QueryError("--where is empty; leave it out for all rows, or say a condition; nothing was changed")
    # On lines of its own: a comment at its end must not swallow what follows.
    condition = f"WHERE (\n{where}\n)" if where else ""
    query = (
        'SELECT topic, partition, list("offset" ORDER BY "offset") '
        f'FROM (SELECT topic, partition, "offset" FROM {TABLES[kind]} {condition}) '
        f'SEMI JOIN {TABLES[kind]} USING (topic, partition, "offset") '
        'ANTI JOIN ledger.redriven USING (topic, partition, "offset") GROUP BY ALL ORDER BY 1, 2'
    )
    try:
        if where is not None:
            # Without the parentheses it must be a condition too: `1=1) OR (1=1` is none.
            con.extract_statements(f"SELECT 1 WHERE {where}")
        statements = con.extract_statements(query)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise QueryError(f"--where {where}: say one condition over {TABLES[kind]}; nothing was changed")
        found = con.execute(query).fetchall()
    except duckdb.Error as error:
        first = str(error).split("\n\nLINE")[0].replace("\n", " ")
        raise QueryError(f"--where {where}: {first}; nothing was changed") from None
    return [(topic, partition, np.array(offsets, np.int64)) for topic, partition, offsets in found]


def judge_again(
    decoded: DecodedBatch,
    applied: Applied,
    history: History,
    settings: Settings,
    live: bool,
    settled_before: datetime | None = None,
) -> _Verdicts:
    """Late no longer counts; dead and duplicate do. Changes nothing."""
    times = decoded.events["event_time"].cast(pa.int64()).to_numpy()
    stamps = decoded.raw.timestamps[decoded.rows]
    ahead = (stamps >= 0) & (times > stamps * 1000 + settings.max_ahead * 1_000_000)
    since = None if applied.newest is None else applied.newest - settings.lateness * 1_000_000
    young = np.full(len(times), True) if since is None else times >= since
    # Of an older one, every later copy is late: no judge will ever apply it.
    waiting = young & ~ahead & live
    settled = np.zeros(len(times), bool)
    if settled_before is not None:
        settled = ~ahead & (times < int((settled_before - EPOCH) / timedelta(microseconds=1)))
        waiting &= ~settled
    open_ = ~ahead & ~waiting & ~settled
    copy, known = np.zeros(len(times), bool), np.ones(len(times), bool)
    if open_.any():
        names = decoded.events["event_id"].filter(pa.array(open_)).combine_chunks()
        copy[open_], known[open_] = applied.copies(names, times[open_], history)
    good, duplicate = open_ & ~copy & known, open_ & copy
    counts = [good, duplicate, decoded.dead, ahead, waiting, ~known, settled]
    sums = [c.num_rows if isinstance(c, pa.Table) else int(np.count_nonzero(c)) for c in counts]
    return _Verdicts(decoded, times, good, duplicate, young, Summary(*sums))


def _commit(
    con: duckdb.DuckDBPyConnection,
    kind: Kind,
    v: _Verdicts,
    tallier: Tallier,
    plans: dict[str, ViewPlan],
    now: datetime,
) -> None:
    """Marks and views, in one transaction."""
    done = v.applied | v.duplicate
    if not done.any():
        return
    topic, partition = v.decoded.raw.topic, v.decoded.raw.partition
    partials = tallier.tally(topic, v.decoded.events.filter(pa.array(v.applied)))
    con.execute("BEGIN")
    try:
        hit("redrive.after_begin")
        _mark(con, kind, v, done, now)
        hit("redrive.after_mark")
        for name, partial in partials.items():
            merge(con, plans[name], partial)
            hit("redrive.inside_merge")
        _remember(con, topic, partition, v)
        hit("redrive.before_commit")
        con.execute("COMMIT")
    except BaseException as error:
        rollback(con)
        if isinstance(error, duckdb.Error):
            raise WarehouseError(f"the redrive was rolled back, nothing of it counts: {error}; try again") from error
        raise
    hit("redrive.after_commit")


def _mark(con: duckdb.DuckDBPyConnection, kind: Kind, v: _Verdicts, done: np.ndarray, now: datetime) -> None:
    """The primary key refuses a row that was redriven by somebody else meanwhile."""
    raw, chosen = v.decoded.raw, pa.array(done)
    n = int(np.count_nonzero(done))
    marks = pa.table(
        {
            "topic": pa.repeat(pa.scalar(raw.topic), n),
            "partition": pa.repeat(pa.scalar(raw.partition, pa.int32()), n),
            "offset": pa.array(raw.offsets[v.decoded.rows[done]]),
            "kind": pa.repeat(pa.scalar(kind), n),
            "verdict": pa.array(np.where(v.applied[done], "applied", "duplicate").tolist()),
            "event_id": v.decoded.events["event_id"].filter(chosen),
            "event_time": v.decoded.events["event_time"].filter(chosen),
            "remembered": pa.array((v.young & v.applied)[done]),
            "redriven_at": pa.repeat(pa.scalar(now, pa.timestamp("us")), n),
        }
    )
    con.register("tally_marks", marks)
    con.execute("INSERT INTO ledger.redriven BY NAME SELECT * FROM tally_marks")
    con.unregister("tally_marks")


def _remember(con: duckdb.DuckDBPyConnection, topic: str, partition: int, v: _Verdicts) -> None:
    """A copy of a young event could come in time yet: the next judge must know the id. Only where none runs."""
    chosen = v.applied & v.young
    if not chosen.any():
        return
    low, high = hash_ids(v.decoded.events["event_id"].filter(pa.array(chosen)))
    ids = Ids(low, high, v.times[chosen]).take(np.argsort(low, kind="stable"))
    con.execute(
        "INSERT INTO state.judge VALUES (?, ?, ?, ?, ?)",
        [topic, partition, v.decoded.raw.first, int(ids.times.max()), pack(ids)],
    )


def live_plans(con: duckdb.DuckDBPyConnection) -> dict[str, ViewPlan]:
    """The views that get events, as the warehouse keeps them: from the SQL stored there, not from a folder.

    Raises:
        WarehouseError: this code would keep one of them otherwise.
    """
    rows = con.execute("SELECT name, version, sql FROM ledger.views WHERE status IN ('live', 'building')").fetchall()
    plans = {}
    for name, version, sql in rows:
        plan = plan_of(name, sql)
        if plan.version != version:
            raise WarehouseError(
                f"view {name} was kept by another Tallystream (version {version}, now {plan.version}); "
                "nothing was changed: run `tally run` once, it rebuilds the view, then redrive"
            )
        plans[name] = plan
    return plans


@cache
def plan_of(name: str, sql: str) -> ViewPlan:
    """The plan of a view as the warehouse has its SQL."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.sql"
        path.write_text(sql, encoding="utf-8")
        return load_view(path)
