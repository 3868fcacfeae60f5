"""The one transaction: view deltas, judge memory, late and dead rows, accounts and offsets, or nothing.

Everything that makes a stream exactly-once is in this file. A crash before COMMIT leaves the old
offsets with the old views; a crash after it, the new with the new. There is no third state.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

import duckdb
import pyarrow as pa

from tallystream import __version__
from tallystream.database import rollback
from tallystream.errors import FenceError, WarehouseError
from tallystream.failpoints import hit
from tallystream.topics.batch import Delta, LastRecord
from tallystream.views.plan import ViewPlan
from tallystream.warehouse.cold import thaw

COUNTS = ("consumed", "applied", "duplicate", "late", "dead", "shed")


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


class Committer:
    """Owns the writer's connection and commits Deltas to the warehouse.

    `lateness_us`, `horizon_us`: microseconds. `plans`: the views kept, building ones included.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection, plans: dict[str, ViewPlan], lateness_us: int, horizon_us: int):
        self.con = con
        self.plans = plans
        self.lateness_us = lateness_us
        self.horizon_us = horizon_us
        found = con.execute("SELECT coalesce(max(id), 0) FROM ledger.commits").fetchone()
        self.last_id: int = found[0] if found else 0
        self.building = {
            row[0] for row in con.execute("SELECT name FROM ledger.views WHERE status = 'building'").fetchall()
        }

    def commit(self, deltas: Sequence[Delta], now: datetime) -> int:
        """Commits all Deltas in one transaction; returns the commit's id.

        Raises:
            FenceError: a stored offset is not where a chain begins; rolled back, nothing counts.
            WarehouseError: DuckDB refused; rolled back, nothing counts.
        """
        began, building = time.perf_counter(), set(self.building)
        live = chains([d for d in deltas if not d.building])
        builds = chains([d for d in deltas if d.building])
        hit("commit.before_begin")
        self.con.execute("BEGIN")
        try:
            hit("commit.after_begin")
            for chain in builds:
                self._fence_build(chain)
            for chain in live:
                self._fence(chain)
            hit("commit.after_fence")
            self._merge(deltas)
            hit("commit.after_merge")
            self._insert("main.late_events", [d.late for c in live for d in c.deltas])
            self._insert("main.dead_letters", [d.dead for c in live for d in c.deltas])
            hit("commit.after_late_and_dead")
            for chain in live:
                self._remember(chain)
            hit("commit.after_judge")
            for chain in live:
                self._advance(chain)
            hit("commit.after_offsets")
            self._watermarks(sorted({c.topic for c in live}))
            self._publish(now)
            self._record(live, now, began)
            hit("commit.before_commit")
            self.con.execute("COMMIT")
        except BaseException as error:
            rollback(self.con)
            # A view that this commit would have published is not: it may be tried again.
            self.building = building
            if isinstance(error, duckdb.Error):
                raise WarehouseError(f"the commit was rolled back, nothing of it counts: {error}") from error
            raise
        hit("commit.after_commit")
        self.last_id += 1
        return self.last_id

    def _fence(self, chain: Chain) -> None:
        stored = self.con.execute(
            "SELECT next_offset FROM ledger.offsets WHERE topic = ? AND partition = ?", [chain.topic, chain.partition]
        ).fetchall()
        if [row[0] for row in stored] != [chain.first]:
            raise FenceError(
                f"{chain.topic}/{chain.partition}: the warehouse stands at offset {stored[0][0] if stored else 'none'}, "
                f"this commit begins at {chain.first}; it was rolled back: another writer was here, run again"
            )

    def _fence_build(self, chain: Chain) -> None:
        names = sorted(chain.deltas[0].building)
        for name in names:
            stored = self.con.execute(
                "SELECT b.next_offset FROM ledger.builds b WHERE b.name = ? AND b.version = ? AND topic = ? AND partition = ?",
                [name, self.plans[name].version, chain.topic, chain.partition],
            ).fetchall()
            if [row[0] for row in stored] != [chain.first]:
                raise FenceError(
                    f"building {name}: {chain.topic}/{chain.partition} does not stand at offset {chain.first}"
                )
            self.con.execute(
                "UPDATE ledger.builds SET next_offset = ? WHERE name = ? AND version = ? AND topic = ? AND partition = ?",
                [chain.next, name, self.plans[name].version, chain.topic, chain.partition],
            )

    def _merge(self, deltas: Sequence[Delta]) -> None:
        for name, plan in self.plans.items():
            parts = [d.partials[name] for d in deltas if name in d.partials and d.partials[name].num_rows]
            if not parts:
                continue
            delta = pa.concat_tables(parts)
            if self._reaches_cold_rows(plan, [d for d in deltas if name in d.partials]):
                thaw(self.con, plan, delta)
            plan.merge(self.con, delta)
            hit("commit.inside_merge")

    def _reaches_cold_rows(self, plan: ViewPlan, deltas: Sequence[Delta]) -> bool:
        """Only when the watermark went back: the lateness was raised, or a partition was added. No look at the rows."""
        row = self.con.execute(
            "SELECT epoch_us(frozen_before) FROM ledger.frozen WHERE name = ? AND version = ?",
            [plan.name, plan.version],
        ).fetchone()
        oldest = [d.min_event_time if d.partials_from is None else d.partials_from for d in deltas]
        return row is not None and any(time is None or time < row[0] for time in oldest)

    def _insert(self, table: str, parts: list[pa.Table]) -> None:
        parts = [part for part in parts if part.num_rows]
        if parts:
            self.con.register("tally_rows", pa.concat_tables(parts))
            self.con.execute(f"INSERT INTO {table} BY NAME SELECT * FROM tally_rows")
            self.con.unregister("tally_rows")

    def _remember(self, chain: Chain) -> None:
        rows = [
            [chain.topic, chain.partition, d.first, d.memory_max_time, d.memory]
            for d in chain.deltas
            if d.memory_max_time is not None
        ]
        if rows:
            self.con.executemany("INSERT INTO state.judge VALUES (?, ?, ?, ?, ?)", rows)
        newest = chain.deltas[-1].max_event_time
        if newest is not None:
            self.con.execute(
                "DELETE FROM state.judge WHERE topic = ? AND partition = ? AND max_time < ?",
                [chain.topic, chain.partition, newest - self.horizon_us],
            )

    def _advance(self, chain: Chain) -> None:
        sets = ", ".join(f"{name} = {name} + ?" for name in COUNTS)
        last = (chain.last.offset, chain.last.digest) if chain.last else (None, None)
        self.con.execute(
            f"UPDATE ledger.offsets SET next_offset = ?, max_event_time = make_timestamp(?::BIGINT), {sets}, "
            "last_offset = coalesce(?, last_offset), last_digest = coalesce(?, last_digest) "
            "WHERE topic = ? AND partition = ?",
            [chain.next, chain.deltas[-1].max_event_time, *chain.counts(), *last, chain.topic, chain.partition],
        )

    def _watermarks(self, topics: list[str]) -> None:
        # The least over the partitions: one that never spoke holds it back, and no clock releases it.
        for topic in topics:
            self.con.execute(
                "UPDATE ledger.watermarks SET watermark = (SELECT CASE WHEN count(*) = count(max_event_time) "
                "THEN min(max_event_time) - to_microseconds(?) END FROM ledger.offsets WHERE topic = ? AND retired_at IS NULL) "
                "WHERE topic = ?",
                [self.lateness_us, topic, topic],
            )

    def _publish(self, now: datetime) -> None:
        """Shows a built view in place of its predecessor, in the same transaction as its last rows."""
        for name in sorted(self.building):
            plan = self.plans[name]
            left = self.con.execute(
                "SELECT count(*) FROM ledger.builds WHERE name = ? AND version = ? AND next_offset < until_offset",
                [name, plan.version],
            ).fetchone()
            if left == (0,):
                publish(self.con, plan, now)
                self.building.discard(name)

    def _record(self, live: list[Chain], now: datetime, began: float) -> None:
        marks = dict(self.con.execute("SELECT topic, watermark FROM ledger.watermarks").fetchall())
        for chain in live:
            schema_ids = sorted({i for d in chain.deltas for i in d.schema_ids})
            self.con.execute(
                f"INSERT INTO ledger.commits VALUES ({', '.join('?' * 16)}, make_timestamp(?::BIGINT), make_timestamp(?::BIGINT), NULL)",
                [
                    self.last_id + 1,
                    now,
                    chain.topic,
                    chain.partition,
                    chain.first,
                    chain.next,
                    *chain.counts(),
                    marks.get(chain.topic),
                    schema_ids,
                    __version__,
                    time.perf_counter() - began,
                    min((d.min_event_time for d in chain.deltas if d.min_event_time is not None), default=None),
                    max((d.memory_max_time for d in chain.deltas if d.memory_max_time is not None), default=None),
                ],
            )


def publish(con: duckdb.DuckDBPyConnection, plan: ViewPlan, now: datetime) -> None:
    """Makes `plan` the view people query, and drops what it supersedes; the caller holds the transaction."""
    con.execute(plan.view_sql())
    old = con.execute("SELECT version FROM ledger.views WHERE name = ? AND version <> ?", [plan.name, plan.version])
    for (version,) in old.fetchall():
        drop_state(con, plan.name, version)
    con.execute(
        "UPDATE ledger.views SET status = 'live', live_at = ? WHERE name = ? AND version = ?",
        [now, plan.name, plan.version],
    )
    con.execute("DELETE FROM ledger.builds WHERE name = ? AND version = ?", [plan.name, plan.version])


def drop_state(con: duckdb.DuckDBPyConnection, name: str, version: str) -> None:
    """Forgets one version of a view: its state tables and its rows in the ledger."""
    tables = con.execute(
        "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'state' AND starts_with(table_name, ?)",
        [f"{name}__{version}"],
    ).fetchall()
    for (table,) in tables:
        con.execute(f'DROP TABLE state."{table}"')
    con.execute("DELETE FROM ledger.views WHERE name = ? AND version = ?", [name, version])
    con.execute("DELETE FROM ledger.frozen WHERE name = ? AND version = ?", [name, version])
    con.execute("DELETE FROM ledger.view_topics WHERE name = ? AND version = ?", [name, version])
    con.execute("DELETE FROM ledger.builds WHERE name = ? AND version = ?", [name, version])
