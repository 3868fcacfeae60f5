"""Compaction: final rows go cold, old books are shortened, the file is checkpointed; the stream goes on meanwhile.

Each step is a transaction of its own under the writer's lock, and small: a commit waits for one of them at most.
Killed anywhere, what was committed is done, and the rest is done by the next compaction.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from tallystream.database import rollback
from tallystream.failpoints import hit
from tallystream.settings import Settings
from tallystream.views.plan import ViewPlan
from tallystream.warehouse.cold import Lock, forget, freeze, rebuild

# Rows of one partition's commits become one an hour: coverage and sums stay exact. Two rows are never joined over a
# hole (a reset), a change of code, or the line between two hours.
ISLANDS = """
    CREATE OR REPLACE TEMP TABLE tally_islands AS
    WITH marked AS (
        SELECT *,
               coalesce(
                   from_offset <> lag(to_offset) OVER same
                   OR code_version <> lag(code_version) OVER same
                   OR date_trunc('hour', committed_at) <> date_trunc('hour', lag(committed_at) OVER same),
                   true
               )::INTEGER AS begins
        FROM ledger.commits WHERE committed_at < ?
        WINDOW same AS (PARTITION BY topic, partition ORDER BY id)
    ),
    numbered AS (
        SELECT *, sum(begins) OVER (PARTITION BY topic, partition ORDER BY id) AS island FROM marked
    )
    SELECT * FROM numbered QUALIFY count(*) OVER (PARTITION BY topic, partition, island) > 1
"""
JOINED = """
    INSERT INTO ledger.commits BY NAME
    SELECT max(id) AS id, min(coalesce(first_id, id)) AS first_id, max(committed_at) AS committed_at, topic, partition,
           min(from_offset) AS from_offset, max(to_offset) AS to_offset,
           sum(consumed)::BIGINT AS consumed, sum(applied)::BIGINT AS applied, sum(duplicate)::BIGINT AS duplicate,
           sum(late)::BIGINT AS late, sum(dead)::BIGINT AS dead, sum(shed)::BIGINT AS shed,
           max(watermark) AS watermark, list_sort(list_distinct(flatten(list(schema_ids)))) AS schema_ids,
           any_value(code_version) AS code_version, sum(seconds) AS seconds,
           -- unknown stays unknown: commits from before the spans were kept
           CASE WHEN bool_or(applied > 0 AND min_event_time IS NULL) THEN NULL ELSE min(min_event_time) END AS min_event_time,
           CASE WHEN bool_or(applied > 0 AND min_event_time IS NULL) THEN NULL ELSE max(max_event_time) END AS max_event_time
    FROM tally_islands GROUP BY topic, partition, island
"""


@dataclass(frozen=True)
class Policy:
    """How much a step moves, and how long what is kept.

    `rows`: of one transaction; 20,000 take some tens of milliseconds. `sets`: how long after a row is final its members can
    still be amended, in event time. `commits`: how long each commit has a row of its own. `sandboxes`: how long those of replays are kept.
    """

    rows: int = 20_000
    sets: timedelta = timedelta(days=7)
    commits: timedelta = timedelta(days=1)
    sandboxes: timedelta = timedelta(days=7)


DEFAULT = Policy()


def compact(
    con: duckdb.DuckDBPyConnection,
    settings: Settings,
    plans: Mapping[str, ViewPlan],
    lock: Lock,
    now: datetime,
    policy: Policy = DEFAULT,
) -> dict[str, Any]:
    """Runs all steps; returns rows moved by view, and sizes before and after.

    `con`: the writer's connection, which `lock` guards; `plans` as the warehouse has them; `now`: UTC, naive.
    """
    began = time.perf_counter()
    before = sizes(con, settings, plans, lock)
    moved = {}
    for name, plan in plans.items():
        moved[name] = freeze(con, plan, lock, policy.rows)
        forget(con, plan, lock, policy.sets)
        rebuild(con, plan, lock)
    joined = shorten_commits(con, lock, now - policy.commits)
    expired = expire_sandboxes(settings.root / "sandboxes", now - policy.sandboxes)
    with lock:
        checkpointed = _checkpoint(con)
    hit("compact.after_checkpoint")
    return {
        "moved": moved,
        "commit_rows_joined": joined,
        "sandboxes_expired": expired,
        "checkpointed": checkpointed,
        "seconds": time.perf_counter() - began,
        "before": before,
        "after": sizes(con, settings, plans, lock),
    }


def shorten_commits(con: duckdb.DuckDBPyConnection, lock: Lock, until: datetime) -> int:
    """Joins the rows of commits before `until`, an hour each; returns how many rows fewer there are."""
    with lock:
        con.execute(ISLANDS, [until.replace(minute=0, second=0, microsecond=0)])
        many = con.execute("SELECT count(*), count(DISTINCT (topic, partition, island)) FROM tally_islands").fetchone()
        if many is None or not many[0]:
            return 0
        con.execute("BEGIN")
        try:
            con.execute(
                "DELETE FROM ledger.commits c USING tally_islands i "
                "WHERE c.id = i.id AND c.topic = i.topic AND c.partition = i.partition"
            )
            hit("compact.inside_commits")
            con.execute(JOINED)
            con.execute("COMMIT")
        except BaseException:
            rollback(con)
            raise
    return int(many[0]) - int(many[1])


def expire_sandboxes(folder: Path, until: datetime) -> list[str]:
    """Removes the sandboxes of replays last written before `until` (UTC, naive); returns their names."""
    gone = []
    for path in sorted(folder.glob("*")):
        written = max((f.stat().st_mtime for f in (path, *path.glob("*"))), default=0.0)
        if datetime.fromtimestamp(written, UTC).replace(tzinfo=None) < until:
            shutil.rmtree(path)
            gone.append(path.name)
    return gone


def _checkpoint(con: duckdb.DuckDBPyConnection) -> bool:
    """Whether it could be done: not while somebody else's transaction writes, such as a snapshot being restored."""
    try:
        con.execute("CHECKPOINT")
    except duckdb.TransactionException:
        return False
    return True


def sizes(
    con: duckdb.DuckDBPyConnection, settings: Settings, plans: Mapping[str, ViewPlan], lock: Lock
) -> dict[str, Any]:
    """Bytes of the file and its log, rows of the commits, and of each view hot and cold."""
    with lock:
        commits = con.execute("SELECT count(*) FROM ledger.commits").fetchone()
        rows = {
            name: con.execute(f"SELECT (SELECT count(*) FROM {p.state}), (SELECT count(*) FROM {p.cold})").fetchone()
            for name, p in plans.items()
        }
    file = settings.warehouse
    return {
        "warehouse_bytes": _size(file),
        "log_bytes": _size(file.with_name(file.name + ".wal")),
        "commit_rows": commits[0] if commits else 0,
        "views": {name: {"hot": row[0], "cold": row[1]} for name, row in rows.items() if row is not None},
    }


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
