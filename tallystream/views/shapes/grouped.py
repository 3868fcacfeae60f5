"""Groups of events in windows that the clock fixes (tumble, hop), or without windows: merge by (window, keys)."""

# ruff: noqa: D102 - what a method of a plan does, `ViewPlan` says

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from tallystream.views.aggregates import SETS, SKETCHES, Aggregate, Part, final_of
from tallystream.views.names import instant, micros, quote
from tallystream.views.plan import DELTA, ViewPlan
from tallystream.views.relation import Relation
from tallystream.views.shape import Grouped, Window
from tallystream.views.shapes.grouped_sql import batch_sql, fill, partial_sql, parts_in


@dataclass(frozen=True)
class GroupedPlan(ViewPlan):
    """Partials merge into keyed rows.

    count(DISTINCT x) has a table of members beside the rows, without an index, until the window is final; a
    sketch is a column of the row. `partial_types`: the partial's columns, members included.
    """

    shape: Grouped
    partial_types: dict[str, str]

    @property
    def relations(self) -> tuple[Relation, ...]:
        return (self.shape.relation,)

    @property
    def window(self) -> Window | None:
        return self.shape.window

    @property
    def description(self) -> str:
        return self.shape.description

    @property
    def canonical(self) -> str:
        return self.shape.canonical

    @property
    def forgets(self) -> bool:
        return self.window is not None and any(a.kind in SETS for a in self.aggregates)

    @property
    def aggregates(self) -> tuple[Aggregate, ...]:
        """The aggregates as they are kept."""
        return self.shape.aggregates

    @cached_property
    def in_row(self) -> bool:
        """Whether rows hold sets, and so are replaced, not upserted: an upsert of a long list rewrites an index."""
        return any(a.kind in SKETCHES for a in self.aggregates)

    @cached_property
    def parts(self) -> list[Part]:
        """The mergeable columns of a row; without the members that have a table of their own."""
        return parts_in(self.aggregates, self.in_row)

    @cached_property
    def members(self) -> list[int]:
        """The aggregates that have a table of members."""
        return [] if self.in_row else [i for i, a in enumerate(self.aggregates) if a.kind == "distinct"]

    @property
    def sets(self) -> list[Part]:
        """The columns that hold a set."""
        return [p for p in self.parts if p.shown]

    @property
    def key_columns(self) -> list[str]:
        """The columns that tell one state row from another."""
        return (["window_start"] if self.window else []) + [f"k{i}" for i in range(len(self.shape.keys))]

    @property
    def primary_key(self) -> str:
        return "" if self.in_row else "_key"

    @property
    def key_sql(self) -> str:
        """The state's key over the key columns: a 128-bit hash, for ON CONFLICT never matches NULL, and NULL is a key."""
        packed = ", ".join(f"{k} := CAST({k} AS {self.state_types[k]})" for k in self.key_columns) or "all_rows := true"
        return f"md5_number(CAST(to_json(struct_pack({packed})) AS VARCHAR))"

    def same_key(self, one: str, other: str) -> str:
        """Whether two rows are of one group."""
        return " AND ".join(f"{one}.{k} IS NOT DISTINCT FROM {other}.{k}" for k in self.key_columns) or "true"

    def partial_sql(self, relation: str, topic: str = "") -> str:
        return partial_sql(self.shape, self.in_row, self.shape.relation.over(topic or self.topics[0], relation))

    def state_ddl(self) -> list[str]:
        keys = [f"{k} {self.state_types[k]}" for k in self.key_columns]
        tables = [
            f"CREATE TABLE IF NOT EXISTS {self.table(f'__m{i}')} ({', '.join([*keys, f'member {self._member_type(i)}'])})"
            for i in self.members
        ]
        return super().state_ddl() + tables

    def _member_type(self, i: int) -> str:
        return self.partial_types[f"a{i}m"].removesuffix("[]")

    def merge_sql(self, delta: str) -> list[str]:
        return self._merge_sql(delta, "")

    def merge(self, con: duckdb.DuckDBPyConnection, delta: pa.Table) -> None:
        con.register(DELTA, delta)
        try:
            for statement in self._merge_sql(DELTA, self._within(delta)):
                con.execute(statement)
        finally:
            con.unregister(DELTA)

    def _within(self, delta: pa.Table) -> str:
        """The delta's windows as constants: DuckDB then skips what is stored of others by its zone maps, as no join does."""
        if self.window is None:
            return ""
        found = pc.min_max(delta["window_start"].cast(pa.int64())).as_py()
        return f"window_start BETWEEN {instant(found['min'])} AND {instant(found['max'])}"

    def _merge_sql(self, delta: str, within: str) -> list[str]:
        keys, names = self.key_columns, [p.name for p in self.parts]
        group = f" GROUP BY {', '.join(keys)}" if keys else ""
        if self.in_row:
            return self._replace_sql(delta, within)
        counted = [f"a{i}" for i in self.members]
        new = [s for i in self.members for s in self._new_members_sql(i, delta, within)]
        combined = ", ".join([*keys, *(f"{p.combine} AS {p.name}" for p in self.parts)])
        source = f"(SELECT {combined} FROM {delta}{group}) AS d"
        for i in self.members:
            source += f" LEFT JOIN (SELECT {', '.join([*keys, 'count(*) AS n'])} FROM tally_new{i}{group}) AS n{i} ON {self.same_key('d', f'n{i}')}"
        typed = [f"CAST(d.{c} AS {self.state_types[c]}) AS {c}" for c in [*keys, *names]]
        typed += [f"coalesce(n{i}.n, 0) AS a{i}" for i in self.members]
        updates = [f"{p.name} = {p.update}" for p in self.parts] + [f"{c} = stored.{c} + excluded.{c}" for c in counted]
        return [
            *new,
            f"INSERT INTO {self.state} AS stored ({', '.join(['_key', *keys, *names, *counted])}) "
            f"SELECT {self.key_sql} AS _key, * FROM (SELECT {', '.join(typed)} FROM {source}) "
            f"ON CONFLICT (_key) DO UPDATE SET {', '.join(updates)}",
        ]

    def _new_members_sql(self, i: int, delta: str, within: str) -> list[str]:
        """The members that their groups did not have, into `tally_new<i>` and the table of members."""
        table, keys = self.table(f"__m{i}"), ", ".join(self.key_columns)
        listed = ", ".join(self.key_columns) + (", " if keys else "")
        same = f"{self.same_key('m', 'd')} AND m.member = d.member"
        told = f"SELECT DISTINCT {listed}unnest(a{i}m) AS member FROM {delta}"
        stored = f"(SELECT * FROM {table} WHERE {within})" if within else table
        return [
            f"CREATE OR REPLACE TEMP TABLE tally_told{i} AS {told}",
            f"CREATE OR REPLACE TEMP TABLE tally_new{i} AS SELECT d.* FROM tally_told{i} d ANTI JOIN {stored} m ON {same}",
            f"INSERT INTO {table} SELECT * FROM tally_new{i}",
        ]

    def _replace_sql(self, delta: str, within: str) -> list[str]:
        keys, names = self.key_columns, [p.name for p in self.parts]
        group = f" GROUP BY {', '.join(keys)}" if keys else ""
        touched = f"SELECT s.rowid AS _row, s.* FROM {self.state} s SEMI JOIN {delta} d ON {self.same_key('s', 'd')}"
        if within:
            touched += f" WHERE s.{within}"
        both = f"SELECT {', '.join([*keys, *names])} FROM tally_touched UNION ALL BY NAME SELECT {', '.join([*keys, *names])} FROM {delta}"
        combined = ", ".join([*keys, *(f"{p.combine} AS {p.name}" for p in self.parts)])
        settled = ", ".join(
            [*keys, *(f"CAST({p.settled} AS {self.state_types[p.name]}) AS {p.name}" for p in self.parts)]
        )
        return [
            f"CREATE OR REPLACE TEMP TABLE tally_touched AS {touched}",
            f"DELETE FROM {self.state} WHERE rowid IN (SELECT _row FROM tally_touched)",
            f"INSERT INTO {self.state} BY NAME SELECT {settled} FROM (SELECT {combined} FROM ({both}){group})",
        ]

    def view_sql(self) -> str:
        return self._shown(f"(rows.window_start + {micros(self.window.size)})" if self.window else "", [])

    def _shown(self, end: str, conditions: list[str]) -> str:
        """The view; `end`: SQL of a window's end over a state row; `conditions`: which rows are shown."""
        # A layer of their own below the outputs: TRY takes no subquery, and that of a quantile is one.
        layer = [f"{final_of(i, a, self.in_row)} AS f{i}" for i, a in enumerate(self.aggregates)]
        finals, keys = [f"f{i}" for i in range(len(layer))], [f"k{i}" for i in range(len(self.shape.keys))]
        outputs = [(o.name, fill(o.sql, finals, keys, end)) for o in self.shape.outputs]
        if self.shape.having:
            conditions = [*conditions, f"({fill(self.shape.having, finals, keys, end)})"]
        return self.shown(outputs, " AND ".join(conditions), layer, "" if self.key_columns else self._nothing)

    @property
    def _nothing(self) -> str:
        """A total over no event is a row too, as in SQL: its counts are 0, all else is NULL."""
        zeros = ", ".join(f"0 AS {p.name}" for p in self.parts if p.zero) or f"NULL AS {self.parts[0].name}"
        return f" UNION ALL BY NAME SELECT {zeros} WHERE NOT EXISTS (FROM {self.state})"

    def final_condition(self, alias: str) -> str | None:
        return None if self.window is None else self.passed(f"{alias}.window_start + {micros(self.window.size)}")

    @property
    def frozen_columns(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for part in self.sets:
            found |= {part.name: f"CAST(NULL AS {self.state_types[part.name]})", f"{part.name}c": part.shown}
        return found

    def freeze_sql(self, limit: int) -> list[str]:
        final = self.final_condition("m")
        if final is None:
            return []
        return super().freeze_sql(limit) + [
            f"DELETE FROM {self.table(f'__m{i}')} m WHERE {final}" for i in self.members
        ]

    def thaw_sql(self, delta: str) -> list[str]:
        if self.window is None:
            return []
        touched = f"SELECT c.rowid FROM {self.cold} c SEMI JOIN {delta} d ON {self.same_key('c', 'd')}"
        return [
            f"INSERT INTO {self.state} BY NAME SELECT * FROM {self.cold} WHERE rowid IN ({touched})",
            f"DELETE FROM {self.cold} WHERE rowid IN ({touched})",
        ]

    def batch_sql(self) -> str:
        typed = ", ".join(f"TRY_CAST({quote(n)} AS {kind}) AS {quote(n)}" for n, kind in self.types.items())
        return f"SELECT {typed} FROM ({batch_sql(self.shape)})"

    def shape_in_words(self) -> str:
        w = self.window
        if w is None:
            return "merge by key"
        shift = f", shifted by {w.shift / 1e6:g} s" if w.shift else ""
        sets = "; members until the window is final" if self.members else "; sketches" if self.in_row else ""
        return f"{w.kind}: size {w.size / 1e6:g} s, slide {w.slide / 1e6:g} s, pane {w.pane / 1e6:g} s{shift}; merge by (window, keys){sets}"
