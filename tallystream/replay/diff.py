"""The difference of a view's live rows and the replayed ones, cell by cell, over what the range holds alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from tallystream.replay.engine import Region
from tallystream.views.plan import ViewPlan, quote
from tallystream.views.reach import keys_of, made_between

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("view", "key", "column", "live", "replayed")] + [("kind", pa.string())]
)


@dataclass
class ViewDiff:
    """One view: rows compared, and rows added (only replayed), missing (only live) and changed.

    `events_after`, `events_before`: the rows compared are made of events strictly between, microseconds; None: unbounded.
    `left_out`: why nothing was compared, else None.
    """

    view: str
    compared: int = 0
    added: int = 0
    missing: int = 0
    changed: int = 0
    events_after: int | None = None
    events_before: int | None = None
    left_out: str | None = None

    @property
    def differs(self) -> bool:
        """Whether any cell differs."""
        return bool(self.added or self.missing or self.changed)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


def region_of(plan: ViewPlan, regions: Mapping[str, Region]) -> Region:
    """What is the range's own in every topic of the view."""
    found = Region()
    for topic in plan.topics:
        region = regions.get(topic, Region())
        found.leave_out(region.after, region.before)
    return found


def compare(
    con: duckdb.DuckDBPyConnection, plan: ViewPlan, live: pa.Table, region: Region
) -> tuple[ViewDiff, pa.Table]:
    """Compares `live` (the view's rows as the warehouse has them) with the view of the sandbox `con`.

    Returns the counts and one row a changed cell; of added and missing rows one for each column that is no key.
    """
    told = ViewDiff(plan.name, events_after=region.after, events_before=region.before)
    where = made_between(plan, region.after, region.before)
    common = [c for c in plan.types if c in live.column_names]
    keys = [k for k in keys_of(plan) if k in common]
    if where is None:
        told.left_out = "its rows do not tell which events made them: only a range of the whole log can be compared"
        return told, SCHEMA.empty_table()
    if set(common) != set(live.column_names) - {"is_final"} or set(keys) != set(keys_of(plan)):
        told.left_out = "its columns are not those of the live view"
        return told, SCHEMA.empty_table()
    con.register("live_rows", live)
    try:
        key = ", ".join(quote(k) for k in keys) or "true"
        made = ", ".join(quote(c) for c in common)
        typed = ", ".join(f"CAST({quote(c)} AS {plan.types[c]}) AS {quote(c)}" for c in common)
        # A number within equal keys: rows of an attribution need not be unique.
        numbered = f"row_number() OVER (PARTITION BY {key} ORDER BY {made}) AS _n"
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE a AS SELECT *, {numbered} FROM (SELECT {typed} FROM live_rows) WHERE {where}"
        )
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE b AS SELECT {made}, {numbered} FROM main.{quote(plan.name)} WHERE {where}"
        )
    finally:
        con.unregister("live_rows")
    same = " AND ".join([f"a.{quote(k)} IS NOT DISTINCT FROM b.{quote(k)}" for k in keys] + ["a._n = b._n"])
    values = [c for c in common if c not in keys]
    packed = ", ".join(f"{quote(k)} := CASE WHEN a._n IS NULL THEN b.{quote(k)} ELSE a.{quote(k)} END" for k in keys)
    named = f"to_json(struct_pack({packed}))::VARCHAR" if keys else "'{}'"
    kind = "CASE WHEN a._n IS NULL THEN 'added' WHEN b._n IS NULL THEN 'missing' ELSE 'changed' END"
    cells = [
        f'SELECT \'{plan.name}\' AS "view", {named} AS "key", \'{c}\' AS "column", a.{quote(c)}::VARCHAR AS live, '
        f"b.{quote(c)}::VARCHAR AS replayed, {kind} AS kind FROM a FULL JOIN b ON {same} "
        f"WHERE a._n IS NULL OR b._n IS NULL OR a.{quote(c)} IS DISTINCT FROM b.{quote(c)}"
        for c in values
    ] or [
        f"SELECT '{plan.name}', {named}, NULL::VARCHAR, NULL::VARCHAR, NULL::VARCHAR, {kind} FROM a FULL JOIN b ON {same} "
        "WHERE a._n IS NULL OR b._n IS NULL"
    ]
    table = con.execute(f"SELECT * FROM ({' UNION ALL '.join(cells)}) ORDER BY ALL").to_arrow_table().cast(SCHEMA)
    row = con.execute(
        f"SELECT count(*), count(*) FILTER (WHERE a._n IS NULL), count(*) FILTER (WHERE b._n IS NULL) FROM a FULL JOIN b ON {same}"
    ).fetchone()
    assert row is not None
    told.compared, told.added, told.missing = row
    told.changed = len(
        {k for k, kind in zip(table["key"].to_pylist(), table["kind"].to_pylist(), strict=True) if kind == "changed"}
    )
    return told, table


def write(path: Path, parts: list[pa.Table]) -> pa.Table:
    """All changed cells as one Parquet file."""
    table = pa.concat_tables([SCHEMA.empty_table(), *parts])
    pq.write_table(table, path)
    return table
