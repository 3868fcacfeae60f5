"""Hot and cold rows of a view: moved in small transactions, and back when something final is amended.

Hot rows have an index and are upserted; their number must not grow with history, or commits would slow down.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import datetime, timedelta

import duckdb
import pyarrow as pa

from tallystream.database import rollback
from tallystream.failpoints import hit
from tallystream.views.plan import ViewPlan
from tallystream.views.shapes.grouped import GroupedPlan

Lock = AbstractContextManager[object]
# A table with an index keeps deleted rows in its file for ever (DuckDB 1.5): it is written anew when most are dead.
DEAD_ROWS = 50_000
DEAD_SHARE = 4
# Looking for what can be forgotten reads a week of members: not every minute.
FORGET_EVERY = timedelta(hours=1)
MARKS = "SELECT watermark FROM ledger.watermarks WHERE topic = ?"


def thaw(con: duckdb.DuckDBPyConnection, plan: ViewPlan, delta: pa.Table) -> None:
    """Moves the cold rows that `delta` touches back to hot; the caller holds the transaction, and merges next."""
    con.register("tally_thawing", delta)
    try:
        for statement in plan.thaw_sql("tally_thawing"):
            con.execute(statement)
    finally:
        con.unregister("tally_thawing")


def freeze(con: duckdb.DuckDBPyConnection, plan: ViewPlan, lock: Lock, rows: int) -> int:
    """Moves all final rows of a live view to its cold table, `rows` at most a transaction; returns how many."""
    moved = 0
    while True:
        with lock:
            step = _freeze_step(con, plan, rows)
        moved += step
        if step < rows:
            return moved


def _freeze_step(con: duckdb.DuckDBPyConnection, plan: ViewPlan, rows: int) -> int:
    final, before = plan.final_condition("s"), watermark(con, plan)
    if final is None or before is None or not _is_live(con, plan):
        return 0
    con.execute("BEGIN")
    try:
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE tally_final AS SELECT s.rowid AS _row FROM {plan.state} s WHERE {final} "
            f"ORDER BY s.{plan.time_column}, s.rowid LIMIT {rows}"
        )
        found = con.execute("SELECT count(*) FROM tally_final").fetchone()
        count = int(found[0]) if found else 0
        if count:
            chosen = "rowid IN (SELECT _row FROM tally_final)"
            con.execute(
                f"INSERT INTO {plan.cold} BY NAME SELECT * FROM {plan.state} WHERE {chosen} ORDER BY {plan.time_column}"
            )
            hit("compact.after_copy")
            con.execute(f"DELETE FROM {plan.state} WHERE {chosen}")
            _note(con, plan, "frozen_before", before)
            hit("compact.before_commit")
        con.execute("COMMIT")
    except BaseException:
        rollback(con)
        raise
    hit("compact.after_commit")
    return count


def forget(con: duckdb.DuckDBPyConnection, plan: ViewPlan, lock: Lock, age: timedelta) -> None:
    """Drops members, sketches and events to be joined that only a change of rows final for `age` would need.

    For the length of this transaction the watermark is set back by `age`: the plan then drops what it would have
    dropped that long ago. Nobody else sees it.
    """
    if not plan.forgets:
        return
    with lock:
        before = watermark(con, plan)
        if before is None or not _is_live(con, plan):
            return
        known = forgotten_before(con, {plan.name: plan}, plan.topics[0])
        if known is not None and before - age < known + FORGET_EVERY:
            return
        con.execute("BEGIN")
        try:
            con.execute("UPDATE ledger.watermarks SET watermark = watermark - ?::INTERVAL", [age])
            if isinstance(plan, GroupedPlan) and plan.sets:
                made = ", ".join(f"{name} = {sql}" for name, sql in plan.frozen_columns.items())
                con.execute(
                    f"UPDATE {plan.cold} AS s SET {made} WHERE s.{plan.sets[0].name}c IS NULL AND {plan.final_condition('s')}"
                )
            hit("compact.inside_forget")
            for statement in plan.freeze_sql(0):
                con.execute(statement)
            con.execute("UPDATE ledger.watermarks SET watermark = watermark + ?::INTERVAL", [age])
            _note(con, plan, "forgotten_before", before - age)
            con.execute("COMMIT")
        except BaseException:
            rollback(con)
            raise


def rebuild(con: duckdb.DuckDBPyConnection, plan: ViewPlan, lock: Lock) -> int:
    """Writes the view's other tables anew where most of their rows are dead; returns how many tables."""
    done = 0
    prefix = f"{plan.name}__{plan.version}"
    query = (
        "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'state' AND starts_with(table_name, ?) ORDER BY 1"
    )
    with lock:
        tables = con.execute(query, [prefix]).fetchall()
    for (table,) in tables:
        name = f'state."{table}"'
        if name == plan.cold:
            continue
        with lock:
            row = con.execute(f"SELECT count(*), coalesce(max(rowid) + 1, 0) FROM {name}").fetchone()
            if row is None or row[1] - row[0] < max(DEAD_ROWS, DEAD_SHARE * row[0]):
                continue
            con.execute("BEGIN")
            try:
                con.execute(f"CREATE OR REPLACE TEMP TABLE tally_kept AS SELECT * FROM {name}")
                con.execute(f"DROP TABLE {name}")
                hit("compact.inside_rebuild")
                for statement in plan.state_ddl():
                    con.execute(statement)
                con.execute(f"INSERT INTO {name} BY NAME SELECT * FROM tally_kept")
                con.execute("DROP TABLE tally_kept")
                con.execute("COMMIT")
            except BaseException:
                rollback(con)
                raise
        done += 1
    return done


def forgotten_before(con: duckdb.DuckDBPyConnection, plans: dict[str, ViewPlan], topic: str) -> datetime | None:
    """Events of `topic` before this time can no more be put into every view exactly; None: all can."""
    marks = []
    for plan in plans.values():
        if topic in plan.topics:
            marks += con.execute(
                "SELECT forgotten_before FROM ledger.frozen WHERE name = ? AND version = ? AND forgotten_before IS NOT NULL",
                [plan.name, plan.version],
            ).fetchall()
    return max((m for (m,) in marks), default=None)


def watermark(con: duckdb.DuckDBPyConnection, plan: ViewPlan) -> datetime | None:
    """The least over the view's topics; None while one of them has none."""
    marks = [con.execute(MARKS, [topic]).fetchone() for topic in plan.topics]
    found = [m[0] for m in marks if m is not None and m[0] is not None]
    return min(found) if len(found) == len(plan.topics) else None


def _is_live(con: duckdb.DuckDBPyConnection, plan: ViewPlan) -> bool:
    """While a view is being built the watermark is ahead of its rows."""
    query = "SELECT 1 FROM ledger.views WHERE name = ? AND version = ? AND status = 'live'"
    return con.execute(query, [plan.name, plan.version]).fetchone() is not None


def _note(con: duckdb.DuckDBPyConnection, plan: ViewPlan, column: str, before: datetime) -> None:
    """Never less than it was: what is cold stays cold when the watermark goes back."""
    known = con.execute(
        "SELECT 1 FROM ledger.frozen WHERE name = ? AND version = ?", [plan.name, plan.version]
    ).fetchone()
    if known is None:
        con.execute("INSERT INTO ledger.frozen VALUES (?, ?, ?, NULL)", [plan.name, plan.version, before])
    con.execute(
        f"UPDATE ledger.frozen SET {column} = greatest({column}, ?) WHERE name = ? AND version = ?",
        [before, plan.name, plan.version],
    )
