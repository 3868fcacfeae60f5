"""The one transaction: view deltas, judge memory, late and dead rows, accounts and offsets, or nothing.

Everything that makes a stream exactly-once is in this file. A crash before COMMIT leaves the old
offsets with the old views; a crash after it, the new with the new. There is no third state.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

import duckdb
import pyarrow as pa

from tallystream import __version__
from tallystream.database import rollback
from tallystream.errors import FenceError, WarehouseError
from tallystream.failpoints import hit
from tallystream.topics.batch import Delta
from tallystream.views.plan import ViewPlan
from tallystream.warehouse.chains import COUNTS, Chain, booked, chains, remembered
from tallystream.warehouse.cold import thaw

BOOKED = "tally_booked"  # the commit's rows for the books, see `booked`


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
        began = time.perf_counter()
        live = chains([d for d in deltas if not d.building])
        builds = chains([d for d in deltas if d.building])
        hit("commit.before_begin")
        building = set(self.building)
        self.con.execute("BEGIN")
        try:
            with self._shown(BOOKED, booked(live)):
                self._write(deltas, live, builds, now, began)
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

    def _write(
        self, deltas: Sequence[Delta], live: list[Chain], builds: list[Chain], now: datetime, began: float
    ) -> None:
        """All of the transaction's statements, in the order in which a crash is tried between them."""
        hit("commit.after_begin")
        for chain in builds:
            self._fence_build(chain)
        self._fence(live)
        hit("commit.after_fence")
        self._merge(deltas)
        hit("commit.after_merge")
        self._insert("main.late_events", [d.late for c in live for d in c.deltas])
        self._insert("main.dead_letters", [d.dead for c in live for d in c.deltas])
        hit("commit.after_late_and_dead")
        self._remember(live)
        hit("commit.after_judge")
        self._advance()
        hit("commit.after_offsets")
        self._watermarks(sorted({c.topic for c in live}))
        self._publish(now)
        self._record(now, began)

    def _fence(self, live: list[Chain]) -> None:
        stored: dict[tuple[str, int], list[int]] = {}
        for topic, partition, offset in self.con.execute(
            "SELECT topic, partition, next_offset FROM ledger.offsets"
        ).fetchall():
            stored.setdefault((topic, partition), []).append(offset)
        for chain in live:
            at = stored.get((chain.topic, chain.partition), [])
            if at != [chain.first]:
                raise FenceError(
                    f"{chain.topic}/{chain.partition}: the warehouse stands at offset {at[0] if at else 'none'}, "
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
        frozen = {
            (name, version): time
            for name, version, time in self.con.execute(
                "SELECT name, version, epoch_us(frozen_before) FROM ledger.frozen"
            ).fetchall()
        }
        for name, plan in self.plans.items():
            parts = [d.partials[name] for d in deltas if name in d.partials and d.partials[name].num_rows]
            if not parts:
                continue
            delta = pa.concat_tables(parts)
            cold_before = frozen.get((name, plan.version))
            if cold_before is not None and reaches(cold_before, [d for d in deltas if name in d.partials]):
                thaw(self.con, plan, delta)
            plan.merge(self.con, delta)
            hit("commit.inside_merge")

    def _insert(self, table: str, parts: list[pa.Table]) -> None:
        parts = [part for part in parts if part.num_rows]
        if parts:
            with self._shown("tally_rows", pa.concat_tables(parts)):
                self.con.execute(f"INSERT INTO {table} BY NAME SELECT * FROM tally_rows")

    @contextmanager
    def _shown(self, name: str, rows: pa.Table) -> Iterator[None]:
        """`rows` as a table for statements."""
        self.con.register(name, rows)
        try:
            yield
        finally:
            self.con.unregister(name)

    def _remember(self, live: list[Chain]) -> None:
        self._insert("state.judge", [remembered(live)])
        self.con.execute(
            f"DELETE FROM state.judge AS j USING {BOOKED} AS b WHERE j.topic = b.topic AND j.partition = b.partition "
            "AND j.max_time < epoch_us(b.max_event_time) - ?",
            [self.horizon_us],
        )

    def _advance(self) -> None:
        sets = ", ".join(f"{name} = o.{name} + b.{name}" for name in COUNTS)
        self.con.execute(
            f"UPDATE ledger.offsets AS o SET next_offset = b.next, max_event_time = b.max_event_time, {sets}, "
            "last_offset = coalesce(b.last_offset, o.last_offset), last_digest = coalesce(b.last_digest, o.last_digest) "
            f"FROM {BOOKED} AS b WHERE o.topic = b.topic AND o.partition = b.partition"
        )

    def _watermarks(self, topics: list[str]) -> None:
        # The least over the partitions: one that never spoke holds it back, and no clock releases it.
        self.con.execute(
            "UPDATE ledger.watermarks AS w SET watermark = o.watermark FROM (SELECT topic, CASE WHEN count(*) = count(max_event_time) "
            "THEN min(max_event_time) - to_microseconds(?) END AS watermark FROM ledger.offsets WHERE retired_at IS NULL GROUP BY topic) AS o "
            "WHERE w.topic = o.topic AND list_contains(?, w.topic)",
            [self.lateness_us, topics],
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

    def _record(self, now: datetime, began: float) -> None:
        self.con.execute(
            f"INSERT INTO ledger.commits SELECT ?, ?, b.topic, b.partition, b.first, b.next, {', '.join(COUNTS)}, "
            f"w.watermark, b.schema_ids, ?, ?, b.min_event_time, b.max_applied_time, NULL FROM {BOOKED} AS b "
            "LEFT JOIN ledger.watermarks AS w USING (topic)",
            [self.last_id + 1, now, __version__, time.perf_counter() - began],
        )


def reaches(cold_before: int, deltas: Sequence[Delta]) -> bool:
    """Whether events may belong to rows that are cold: the watermark went back. Microseconds; no look at the rows.

    It does when the lateness was raised, or a partition was added.
    """
    oldest = [d.min_event_time if d.partials_from is None else d.partials_from for d in deltas]
    return any(time is None or time < cold_before for time in oldest)


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
