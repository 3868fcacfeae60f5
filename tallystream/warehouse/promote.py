"""Promotion: replayed rows take the place of live ones, in one transaction; undo puts the old ones back.

What is swapped are rows of the plan's state, not of the view: events that come later merge into them as into any
others. A promotion is refused when the rows that it would replace are not those that were compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from tallystream.database import rollback
from tallystream.errors import WarehouseError
from tallystream.failpoints import hit
from tallystream.views.plan import ViewPlan, quote
from tallystream.views.reach import made_between
from tallystream.views.shapes.grouped import GroupedPlan
from tallystream.views.shapes.session import SessionPlan
from tallystream.warehouse.redrive import live_plans
from tallystream.warehouse.redriven import exists

Lock = AbstractContextManager[object]
# Made by the first promotion. `fingerprint`: of the state's rows, promoted.
TABLE = """
    CREATE TABLE IF NOT EXISTS ledger.promotions (
        id BIGINT NOT NULL,
        promoted_at TIMESTAMP NOT NULL,
        view VARCHAR NOT NULL,
        version VARCHAR NOT NULL,
        after_us BIGINT,
        before_us BIGINT,
        fingerprint VARCHAR NOT NULL,
        undone_at TIMESTAMP
    )
"""
NOT_SWAPPED = (
    "sessions and attributions hold on to events beyond their windows and cannot be swapped by window: put the corrected "
    "file into sql/views, `tally run` builds it anew, exactly once"
)


@dataclass(frozen=True)
class Change:
    """A view whose rows are to be swapped: those made of events strictly between `after` and `before`.

    `version`: of the live definition that was compared. `plan`: the replayed definition. `offsets`, `watermark`,
    `redriven`: of the committed state that was compared, "topic/partition" -> next offset. Times in microseconds; None:
    unbounded, and of the watermark: none.
    """

    view: str
    version: str
    plan: ViewPlan
    after: int | None
    before: int | None
    offsets: dict[str, int]
    watermark: int | None
    redriven: int


def save_change(con: duckdb.DuckDBPyConnection, change: Change, live: pa.Table, folder: Path) -> None:
    """Writes what a promotion needs beside the sandbox `con`: the live rows compared, and the replayed state."""
    plan = change.plan
    con.register("live_rows", live)
    typed = ", ".join(f"CAST({quote(c)} AS {plan.types[c]}) AS {quote(c)}" for c in plan.types)
    where = made_between(plan, change.after, change.before)
    compared = con.execute(f"SELECT * FROM (SELECT {typed} FROM live_rows) WHERE {where}").to_arrow_table()
    con.unregister("live_rows")
    pq.write_table(compared, folder / f"{change.view}.live.parquet")
    refused = None if isinstance(plan, GroupedPlan) and not isinstance(plan, SessionPlan) else NOT_SWAPPED
    if isinstance(plan, GroupedPlan) and refused is None:
        for suffix, source in _sources(plan):
            rows = con.execute(f"SELECT * EXCLUDE (_key) FROM {source} WHERE {_within(plan, change.after, change.before)}"
                               if suffix == "" and plan.primary_key else
                               f"SELECT * FROM {source} WHERE {_within(plan, change.after, change.before)}")  # fmt: skip
            pq.write_table(rows.to_arrow_table(), folder / f"{change.view}{suffix}.state.parquet")
    told = {
        "view": change.view,
        "version": change.version,
        "after": change.after,
        "before": change.before,
        "offsets": change.offsets,
        "watermark": change.watermark,
        "redriven": change.redriven,
        "state_types": plan.state_types,
        "refused": refused,
    }
    (folder / f"{change.view}.change.json").write_text(json.dumps(told))


def promote(con: duckdb.DuckDBPyConnection, folder: Path, lock: Lock, now: datetime) -> dict[str, Any]:
    """Swaps every change saved in `folder` in; {"id", "views", "refused": view -> why}. `con`: the writer's.

    Raises:
        WarehouseError: there is nothing to promote, or live rows changed since they were compared; nothing was changed.
    """
    changes = [json.loads(path.read_text()) for path in sorted(folder.glob("*.change.json"))]
    if not changes:
        raise WarehouseError(f"{folder} holds no difference to promote; nothing was changed")
    refused = {c["view"]: c["refused"] for c in changes if c["refused"]}
    with lock, _transaction(con):
        hit("promote.after_begin")
        con.execute(TABLE)
        row = con.execute("SELECT coalesce(max(id), 0) + 1 FROM ledger.promotions").fetchone()
        number = int(row[0]) if row else 1
        plans = live_plans(con)
        views = []
        for change in changes:
            if change["refused"]:
                continue
            plan = plans.get(change["view"])
            if plan is None or plan.version != change["version"]:
                raise WarehouseError(f"{change['view']} has another definition since it was compared; replay again")
            assert isinstance(plan, GroupedPlan)
            if plan.state_types != change["state_types"]:
                refused[plan.name] = (
                    "its definition keeps other columns: put it into sql/views, `tally run` builds it anew"
                )
                continue
            _settle(con, plan, change)
            _refuse_stale(con, plan, change, folder)
            _swap(con, plan, change, folder, number)
            hit("promote.after_swap")
            mark = _fingerprint(con, plan, change["after"], change["before"])
            con.execute(
                "INSERT INTO ledger.promotions VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",
                [number, now, plan.name, plan.version, change["after"], change["before"], mark],
            )
            views.append(plan.name)
        hit("promote.before_commit")
    hit("promote.after_commit")
    return {"id": number if views else None, "views": views, "refused": refused}


def undo(con: duckdb.DuckDBPyConnection, number: int, lock: Lock, now: datetime) -> dict[str, Any]:
    """Puts the rows back that promotion `number` replaced.

    Raises:
        WarehouseError: there is no such promotion, it was undone, or its rows changed since; nothing was changed.
    """
    with lock, _transaction(con):
        con.execute(TABLE)
        rows = con.execute(
            "SELECT view, version, after_us, before_us, fingerprint, undone_at FROM ledger.promotions WHERE id = ?",
            [number],
        ).fetchall()
        if not rows:
            raise WarehouseError(f"there is no promotion {number}; `SELECT * FROM ledger.promotions` lists them")
        plans = live_plans(con)
        for view, version, after, before, mark, undone in rows:
            plan = plans.get(view)
            if undone is not None:
                raise WarehouseError(f"promotion {number} was undone at {undone}")
            if plan is None or plan.version != version:
                raise WarehouseError(
                    f"{view} has another definition since promotion {number}; its rows were built anew"
                )
            assert isinstance(plan, GroupedPlan)
            if _fingerprint(con, plan, after, before) != mark:
                raise WarehouseError(f"rows of {view} have changed since promotion {number}; nothing was changed")
            for suffix, _ in _sources(plan):
                kept = _kept(number, view, suffix)
                _replace(con, plan, suffix, kept, _within(plan, after, before))
                con.execute(f"DROP TABLE {kept}")
        con.execute("UPDATE ledger.promotions SET undone_at = ? WHERE id = ?", [now, number])
        hit("undo.before_commit")
    return {"id": number, "views": [row[0] for row in rows]}


class _transaction:
    """BEGIN and COMMIT; ROLLBACK when anything is raised."""

    def __init__(self, con: duckdb.DuckDBPyConnection):
        self._con = con

    def __enter__(self) -> None:
        self._con.execute("BEGIN")

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        if kind:
            rollback(self._con)
        else:
            self._con.execute("COMMIT")


def _sources(plan: GroupedPlan) -> Iterator[tuple[str, str]]:
    """(suffix, relation) of the state: rows hot and cold, and the members of distinct counts."""
    yield "", f"(SELECT * FROM {plan.state} UNION ALL BY NAME SELECT * FROM {plan.cold})"
    for i in plan.members:
        yield f"__m{i}", plan.table(f"__m{i}")


def _within(plan: ViewPlan, after: int | None, before: int | None) -> str:
    """SQL over state rows: the same as the change's condition over the view's."""
    if plan.window is None:
        return "true"
    told = ["true"]
    if after is not None:
        told.append(f"epoch_us(window_start) > {int(after)}")
    if before is not None:
        told.append(f"epoch_us(window_start) + {plan.window.size} <= {int(before)}")
    return " AND ".join(told)


def _kept(number: int, view: str, suffix: str) -> str:
    return f'state."undo_{number}__{view}{suffix}"'


def _swap(con: duckdb.DuckDBPyConnection, plan: GroupedPlan, change: dict[str, Any], folder: Path, number: int) -> None:
    within = _within(plan, change["after"], change["before"])
    for suffix, source in _sources(plan):
        con.execute(f"CREATE TABLE {_kept(number, plan.name, suffix)} AS SELECT * FROM {source} WHERE {within}")
        con.register("promoted", pq.read_table(folder / f"{plan.name}{suffix}.state.parquet"))
        try:
            _replace(con, plan, suffix, f"(SELECT * FROM promoted WHERE {within})", within)
        finally:
            con.unregister("promoted")


def _replace(con: duckdb.DuckDBPyConnection, plan: GroupedPlan, suffix: str, rows: str, within: str) -> None:
    """The rows of a state table that are `within` become those of the relation `rows`."""
    if suffix or not plan.primary_key:
        con.execute(f"DELETE FROM {plan.table(suffix)} WHERE {within}")
        if not suffix:
            con.execute(f"DELETE FROM {plan.cold} WHERE {within}")
        con.execute(f"INSERT INTO {plan.table(suffix)} BY NAME SELECT * FROM {rows}")
        return
    columns = list(plan.state_types)
    typed = ", ".join(f"CAST({c} AS {kind}) AS {c}" for c, kind in plan.state_types.items())
    con.execute(f"CREATE OR REPLACE TEMP TABLE tally_promoted AS SELECT {plan.key_sql} AS _key, {typed} FROM {rows}")
    con.execute(f"DELETE FROM {plan.cold} WHERE {within}")
    # Not all deleted and inserted again: within a transaction the index would still know the deleted keys.
    con.execute(f"DELETE FROM {plan.state} WHERE {within} AND _key NOT IN (SELECT _key FROM tally_promoted)")
    updates = ", ".join(f"{c} = excluded.{c}" for c in columns if c not in plan.key_columns)
    con.execute(
        f"INSERT INTO {plan.state} BY NAME SELECT * FROM tally_promoted ON CONFLICT (_key) DO UPDATE SET {updates}"
    )
    con.execute("DROP TABLE tally_promoted")


def _settle(con: duckdb.DuckDBPyConnection, plan: ViewPlan, change: dict[str, Any]) -> None:
    """Narrows the change to windows that were final when it was compared, if the stream has gone on since.

    An event that came since can be in an open window without a trace in what people see: 4, 4 and 4 have the average of
    4 and 4. The swap would lose it.
    """
    rows = con.execute("SELECT topic || '/' || partition, next_offset FROM ledger.offsets").fetchall()
    stands = {name: at for name, at in rows if name.split("/")[0] in plan.topics}
    found = con.execute("SELECT count(*) FROM ledger.redriven").fetchone() if exists(con) else (0,)
    if found != (change["redriven"],):
        raise WarehouseError("the difference is stale: rows were redriven since; nothing was changed, replay again")
    if stands == change["offsets"]:
        return
    mark, before = change["watermark"], change["before"]
    if plan.window is None or mark is None:
        raise WarehouseError(
            f"the difference is stale: {plan.name} has no final rows, and events came since it was compared; nothing was "
            "changed: stop the stream, and replay again"
        )
    change["before"] = mark if before is None else min(before, mark)


def _refuse_stale(con: duckdb.DuckDBPyConnection, plan: ViewPlan, change: dict[str, Any], folder: Path) -> None:
    columns = ", ".join(quote(c) for c in plan.types)
    con.register("compared", pq.read_table(folder / f"{plan.name}.live.parquet"))
    typed = ", ".join(f"CAST({quote(c)} AS {kind}) AS {quote(c)}" for c, kind in plan.types.items())
    where = made_between(plan, change["after"], change["before"])
    now = f"SELECT {columns} FROM main.{quote(plan.name)} WHERE {where}"
    then = f"SELECT * FROM (SELECT {typed} FROM compared) WHERE {where}"
    try:
        row = con.execute(
            f"SELECT (SELECT count(*) FROM ({now} EXCEPT ALL {then})) + (SELECT count(*) FROM ({then} EXCEPT ALL {now}))"
        ).fetchone()
    finally:
        con.unregister("compared")
    if row != (0,):
        raise WarehouseError(
            f"the difference is stale: rows of {plan.name} have changed since they were compared; nothing was changed, replay again"
        )


def _fingerprint(con: duckdb.DuckDBPyConnection, plan: GroupedPlan, after: int | None, before: int | None) -> str:
    """Of the state's rows, not of what people see of them."""
    # Without the sets that compaction drops when a row is final.
    columns = ", ".join(c for c in plan.state_types if c not in plan.frozen_columns)
    source = next(relation for suffix, relation in _sources(plan) if not suffix)
    row = con.execute(
        f"SELECT count(*), bit_xor(hash(v)), sum(hash(v)) FROM (SELECT {columns} FROM {source} WHERE {_within(plan, after, before)}) v"
    ).fetchone()
    return ":".join(str(part) for part in row or ())
