"""Promotion: replayed rows take the place of live ones, in one transaction; undo puts the old ones back.

What is swapped are rows of the plan's state, not of the view: events that come later merge into them as into any
others. A promotion is refused when the rows that it would replace are not those that were compared.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
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
from tallystream.views.shapes.grouped import GroupedPlan
from tallystream.views.shapes.session import SessionPlan
from tallystream.warehouse.redrive import live_plans
from tallystream.warehouse.redriven import exists
from tallystream.warehouse.swap import Slice, fingerprint, last_end, put_back, sources, swap

Lock = AbstractContextManager[object]
# Made by the first promotion. `fingerprint`: of the state's rows, promoted. `until_us`: where its last window ends;
# `spared`: what it left alone between its bounds; `made_by`: the version of the definition that made the new rows.
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
    );
    ALTER TABLE ledger.promotions ADD COLUMN IF NOT EXISTS until_us BIGINT;
    ALTER TABLE ledger.promotions ADD COLUMN IF NOT EXISTS spared STRUCT(after_us BIGINT, before_us BIGINT)[];
    ALTER TABLE ledger.promotions ADD COLUMN IF NOT EXISTS made_by VARCHAR;
"""
NOT_SWAPPED = (
    "sessions and attributions hold on to events beyond their windows and cannot be swapped by window: put the corrected "
    "file into sql/views, `tally run` builds it anew, exactly once"
)


@dataclass(frozen=True)
class Change:
    """A view whose rows are to be swapped: those of `rows`.

    `version`: of the live definition that was compared. `plan`: the replayed definition. `offsets`, `watermark`,
    `redriven`: of the committed state that was compared, "topic/partition" -> next offset. Times in microseconds; None:
    of the watermark: none.
    """

    view: str
    version: str
    plan: ViewPlan
    rows: Slice
    offsets: dict[str, int]
    watermark: int | None
    redriven: int


def save_change(con: duckdb.DuckDBPyConnection, change: Change, live: pa.Table, folder: Path) -> None:
    """Writes what a promotion needs beside the sandbox `con`: the live rows compared, and the replayed state."""
    plan = change.plan
    con.register("live_rows", live)
    typed = ", ".join(f"CAST({quote(c)} AS {plan.types[c]}) AS {quote(c)}" for c in plan.types)
    where = change.rows.of_view(plan)
    compared = con.execute(f"SELECT * FROM (SELECT {typed} FROM live_rows) WHERE {where}").to_arrow_table()
    con.unregister("live_rows")
    pq.write_table(compared, folder / f"{change.view}.live.parquet")
    refused = None if isinstance(plan, GroupedPlan) and not isinstance(plan, SessionPlan) else NOT_SWAPPED
    if isinstance(plan, GroupedPlan) and refused is None:
        for suffix, source in sources(plan):
            columns = "* EXCLUDE (_key)" if suffix == "" and plan.primary_key else "*"
            rows = con.execute(f"SELECT {columns} FROM {source} WHERE {change.rows.of_state(plan)}")
            pq.write_table(rows.to_arrow_table(), folder / f"{change.view}{suffix}.state.parquet")
    told = {
        "view": change.view,
        "version": change.version,
        "made_by": plan.version,
        **asdict(change.rows),
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
            rows = _settled(con, plan, change)
            _refuse_stale(con, plan, rows, folder)
            swap(con, plan, rows, folder, number)
            hit("promote.after_swap")
            _note(con, plan, rows, number, change["made_by"], now)
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
            "SELECT view, version, after_us, before_us, spared, fingerprint, undone_at FROM ledger.promotions WHERE id = ?",
            [number],
        ).fetchall()
        if not rows:
            raise WarehouseError(f"there is no promotion {number}; `SELECT * FROM ledger.promotions` lists them")
        plans = live_plans(con)
        for view, version, after, before, spared, mark, undone in rows:
            plan = plans.get(view)
            replaced = Slice(after, before, tuple((s["after_us"], s["before_us"]) for s in spared or ()))
            if undone is not None:
                raise WarehouseError(f"promotion {number} was undone at {undone}")
            if plan is None or plan.version != version:
                raise WarehouseError(
                    f"{view} has another definition since promotion {number}; its rows were built anew"
                )
            assert isinstance(plan, GroupedPlan)
            if fingerprint(con, plan, replaced) != mark:
                raise WarehouseError(f"rows of {view} have changed since promotion {number}; nothing was changed")
            put_back(con, plan, replaced, number)
        con.execute("UPDATE ledger.promotions SET undone_at = ? WHERE id = ?", [now, number])
        hit("undo.before_commit")
    return {"id": number, "views": [row[0] for row in rows]}


def _note(
    con: duckdb.DuckDBPyConnection, plan: GroupedPlan, rows: Slice, number: int, made_by: str, now: datetime
) -> None:
    con.execute(
        "INSERT INTO ledger.promotions (id, promoted_at, view, version, after_us, before_us, fingerprint, until_us, spared, "
        "made_by) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            number,
            now,
            plan.name,
            plan.version,
            rows.after,
            rows.before,
            fingerprint(con, plan, rows),
            last_end(con, plan, rows, number),
            [{"after_us": a, "before_us": b} for a, b in rows.spared],
            made_by,
        ],
    )


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


def _settled(con: duckdb.DuckDBPyConnection, plan: ViewPlan, change: dict[str, Any]) -> Slice:
    """What can be swapped: of the change the windows that were final when it was compared, if the stream has gone on since.

    An event that came since can be in an open window without a trace in what people see: 4, 4 and 4 have the average of
    4 and 4. The swap would lose it.
    """
    rows = con.execute("SELECT topic || '/' || partition, next_offset FROM ledger.offsets").fetchall()
    stands = {name: at for name, at in rows if name.split("/")[0] in plan.topics}
    found = con.execute("SELECT count(*) FROM ledger.redriven").fetchone() if exists(con) else (0,)
    if found != (change["redriven"],):
        raise WarehouseError("the difference is stale: rows were redriven since; nothing was changed, replay again")
    mark, before, spared = change["watermark"], change["before"], tuple((a, b) for a, b in change["spared"])
    if stands == change["offsets"]:
        return Slice(change["after"], before, spared)
    if plan.window is None or mark is None:
        raise WarehouseError(
            f"the difference is stale: {plan.name} has no final rows, and events came since it was compared; nothing was "
            "changed: stop the stream, and replay again"
        )
    return Slice(change["after"], mark if before is None else min(before, mark), spared)


def _refuse_stale(con: duckdb.DuckDBPyConnection, plan: ViewPlan, rows: Slice, folder: Path) -> None:
    columns = ", ".join(quote(c) for c in plan.types)
    con.register("compared", pq.read_table(folder / f"{plan.name}.live.parquet"))
    typed = ", ".join(f"CAST({quote(c)} AS {kind}) AS {quote(c)}" for c, kind in plan.types.items())
    where = rows.of_view(plan)
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
