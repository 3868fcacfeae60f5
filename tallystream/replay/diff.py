"""The difference of a view's live rows and the replayed ones, cell by cell, over what the range holds alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from tallystream.replay.engine import Region
from tallystream.replay.live import Promoted
from tallystream.views.plan import ViewPlan, quote
from tallystream.views.reach import keys_of, made_between
from tallystream.warehouse.swap import Slice

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("view", "key", "column", "live", "replayed")] + [("kind", pa.string())]
)


@dataclass
class ViewDiff:
    """One view: rows compared, and rows added (only replayed), missing (only live) and changed.

    `events_after`, `events_before`: the rows compared are made of events strictly between, microseconds; None: unbounded.
    `spared`: live rows between them that the promotions `promotions` made, and that were left alone.
    `left_out`: why nothing was compared, else None.
    """

    view: str
    compared: int = 0
    added: int = 0
    missing: int = 0
    changed: int = 0
    events_after: int | None = None
    events_before: int | None = None
    spared: int = 0
    promotions: tuple[int, ...] = ()
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
    con: duckdb.DuckDBPyConnection, plan: ViewPlan, live: pa.Table, rows: Slice, standing: Sequence[Promoted]
) -> tuple[ViewDiff, pa.Table]:
    """Compares `live` (the view's rows as the warehouse has them) with the view of the sandbox `con`.

    What one of the promotions `standing` made is left alone. Returns the counts and one row a changed cell; of added and
    missing rows one for each column that is no key.
    """
    told = ViewDiff(plan.name, events_after=rows.after, events_before=rows.before)
    where = made_between(plan, rows.after, rows.before, [p.bounds for p in standing])
    if standing and plan.window is None:
        told.promotions = tuple(p.id for p in standing)
        told.left_out = (
            f"its rows are as promotion {standing[-1].id} made them; `tally replay --undo` puts the old ones back"
        )
        return told, SCHEMA.empty_table()
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
        if standing:
            whole = made_between(plan, rows.after, rows.before)
            left = con.execute(
                f"SELECT count(*) FROM (SELECT {typed} FROM live_rows) WHERE ({whole}) AND NOT ({where})"
            ).fetchone()
            told.spared = left[0] if left else 0
            told.promotions = tuple(p.id for p in standing) if told.spared else ()
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
