"""Rows of a plan's state, by the events that made them: swapped for others, put back, told from others by a hash."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from tallystream.views.plan import ViewPlan
from tallystream.views.reach import Bounds, made_between
from tallystream.views.shapes.grouped import GroupedPlan


@dataclass(frozen=True)
class Slice:
    """Rows made of events strictly between `after` and `before`, without those within one of `spared`. Microseconds."""

    after: int | None = None
    before: int | None = None
    spared: tuple[Bounds, ...] = ()

    def of_view(self, plan: ViewPlan) -> str:
        """SQL over the view's rows; the caller knows that its columns tell."""
        return made_between(plan, self.after, self.before, self.spared) or "false"

    def of_state(self, plan: ViewPlan) -> str:
        """SQL over state rows: the same rows."""
        if plan.window is None:
            return "true"
        return " AND ".join(
            [f"({_between(plan, (self.after, self.before))})", *(f"NOT ({_between(plan, b)})" for b in self.spared)]
        )


def _between(plan: ViewPlan, bounds: Bounds) -> str:
    assert plan.window is not None
    after, before = bounds
    told = ["true"]
    if after is not None:
        told.append(f"epoch_us(window_start) > {int(after)}")
    if before is not None:
        told.append(f"epoch_us(window_start) + {plan.window.size} <= {int(before)}")
    return " AND ".join(told)


def sources(plan: GroupedPlan) -> Iterator[tuple[str, str]]:
    """(suffix, relation) of the state: rows hot and cold, and the members of distinct counts."""
    yield "", f"(SELECT * FROM {plan.state} UNION ALL BY NAME SELECT * FROM {plan.cold})"
    for i in plan.members:
        yield f"__m{i}", plan.table(f"__m{i}")


def kept(number: int, view: str, suffix: str) -> str:
    """The table of the rows that promotion `number` replaced."""
    return f'state."undo_{number}__{view}{suffix}"'


def swap(con: duckdb.DuckDBPyConnection, plan: GroupedPlan, rows: Slice, folder: Path, number: int) -> None:
    """The rows saved in `folder` take the place of those of the slice, which are kept for an undo."""
    within = rows.of_state(plan)
    for suffix, source in sources(plan):
        con.execute(f"CREATE TABLE {kept(number, plan.name, suffix)} AS SELECT * FROM {source} WHERE {within}")
        con.register("promoted", pq.read_table(folder / f"{plan.name}{suffix}.state.parquet"))
        try:
            _replace(con, plan, suffix, f"(SELECT * FROM promoted WHERE {within})", within)
        finally:
            con.unregister("promoted")


def put_back(con: duckdb.DuckDBPyConnection, plan: GroupedPlan, rows: Slice, number: int) -> None:
    """The rows that promotion `number` replaced take their place again."""
    for suffix, _ in sources(plan):
        table = kept(number, plan.name, suffix)
        _replace(con, plan, suffix, table, rows.of_state(plan))
        con.execute(f"DROP TABLE {table}")


def last_end(con: duckdb.DuckDBPyConnection, plan: GroupedPlan, rows: Slice, number: int) -> int | None:
    """Where the last window of the slice ends, before or after promotion `number`; None without windows or rows.

    A promotion up to now has no other end: windows that begin later were not made by it.
    """
    if plan.window is None:
        return None
    both = [next(relation for suffix, relation in sources(plan) if not suffix), kept(number, plan.name, "")]
    found = [
        con.execute(f"SELECT epoch_us(max(window_start)) FROM {table} WHERE {rows.of_state(plan)}").fetchone()
        for table in both
    ]
    starts = [row[0] for row in found if row is not None and row[0] is not None]
    return max(starts) + plan.window.size if starts else None


def fingerprint(con: duckdb.DuckDBPyConnection, plan: GroupedPlan, rows: Slice) -> str:
    """Of the state's rows, not of what people see of them."""
    # Without the sets that compaction drops when a row is final.
    columns = ", ".join(c for c in plan.state_types if c not in plan.frozen_columns)
    source = next(relation for suffix, relation in sources(plan) if not suffix)
    row = con.execute(
        f"SELECT count(*), bit_xor(hash(v)), sum(hash(v)) FROM (SELECT {columns} FROM {source} WHERE {rows.of_state(plan)}) v"
    ).fetchone()
    return ":".join(str(part) for part in row or ())


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
