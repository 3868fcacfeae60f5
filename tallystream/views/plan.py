"""A view's plan: the SQL of its partial, its state, its merge, the view people see, and its batch form."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import duckdb

from tallystream.views.read import Aggregate, Shape, Window

# Part of every version: raised when the generated state changes, so that old state is never mixed with new.
PLAN_VERSION = 2
ORIGIN = "TIMESTAMP '1970-01-01'"


def quote(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True)
class Part:
    """One column of the partial and of the state: how it is made, combined and upserted.

    In `update` the stored row is `stored`, the delta's `excluded`, as in any upsert.
    """

    name: str
    partial: str
    combine: str
    update: str
    type: str = ""


def parts_of(i: int, a: Aggregate) -> list[Part]:
    """The mergeable parts of an aggregate."""
    keep = f" FILTER (WHERE {a.condition})" if a.condition else ""

    def add(name: str, partial: str, zero: bool) -> Part:
        old, new = f"stored.{name}", f"excluded.{name}"
        plus = f"{old} + {new}"
        if not zero:
            plus = f"CASE WHEN {old} IS NULL THEN {new} WHEN {new} IS NULL THEN {old} ELSE {plus} END"
        cast = "BIGINT" if zero else None
        combine = f"CAST(sum({name}) AS {cast})" if cast else f"sum({name})"
        return Part(name, partial + keep, combine, plus)

    def best(name: str, partial: str, how: str) -> Part:
        sign = ">" if how == "max" else "<"
        old, new = f"stored.{name}", f"excluded.{name}"
        better = f"CASE WHEN {old} IS NULL OR {new} {sign} {old} THEN {new} ELSE {old} END"
        return Part(name, partial, f"{how}({name})", better)

    if a.kind == "count":
        return [add(f"a{i}", f"count({a.args[0]})", True)]
    if a.kind == "sum":
        return [add(f"a{i}", f"sum({a.args[0]})", False)]
    if a.kind == "avg":
        return [add(f"a{i}s", f"sum({a.args[0]})", False), add(f"a{i}n", f"count({a.args[0]})", True)]
    if a.kind in ("min", "max"):
        return [best(f"a{i}", f"{a.kind}({a.args[0]}){keep}", a.kind)]
    return [best(f"a{i}", _arg_best(a), a.kind.removeprefix("arg_"))]


def _arg_best(a: Aggregate) -> str:
    """Ties go by (the given key, event_id), then by the value: the same on every path."""
    value, by = a.args
    condition = f"({value}) IS NOT NULL AND ({by}) IS NOT NULL" + (f" AND ({a.condition})" if a.condition else "")
    how = a.kind.removeprefix("arg_")
    return f"{how}(struct_pack(k := {by}, id := event_id, v := {value})) FILTER (WHERE {condition})"


def final_of(i: int, a: Aggregate) -> str:
    """The output of an aggregate over its stored parts."""
    if a.kind == "avg":
        return f"a{i}s::DOUBLE / nullif(a{i}n, 0)"
    return f"a{i}.v" if a.kind.startswith("arg_") else f"a{i}"


@dataclass(frozen=True)
class ViewPlan:
    """One view: what the file says, and the SQL that keeps it.

    `types`: output column -> DuckDB type, as the file's own query gives them.
    """

    name: str
    path: Path
    sql: str
    shape: Shape
    types: dict[str, str]
    state_types: dict[str, str]

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics it reads."""
        return (self.shape.topic,)

    @property
    def window(self) -> Window | None:
        """Its window, or None for totals and latest state."""
        return self.shape.window

    @property
    def description(self) -> str:
        """The file's leading comment."""
        return self.shape.description

    @cached_property
    def definition_hash(self) -> str:
        """Of the canonical SQL and the plan's format; comments and white space do not matter."""
        types = ",".join(f"{k} {v}" for k, v in self.state_types.items())
        return hashlib.sha256(f"{PLAN_VERSION}\n{self.shape.canonical}\n{types}".encode()).hexdigest()

    @property
    def version(self) -> str:
        """Eight hex digits that tell one definition from another."""
        return self.definition_hash[:8]

    @property
    def state(self) -> str:
        """The state table."""
        return f'state."{self.name}__{self.version}"'

    @cached_property
    def parts(self) -> list[Part]:
        """The mergeable columns."""
        return [part for i, a in enumerate(self.shape.aggregates) for part in parts_of(i, a)]

    @property
    def key_columns(self) -> list[str]:
        """The columns that tell one state row from another."""
        return (["window_start"] if self.window else []) + [f"k{i}" for i in range(len(self.shape.keys))]

    def partial_sql(self, relation: str) -> str:
        """SELECT over one batch of accepted events; several batches' rows are combined by `merge_sql`.

        A hop is aggregated by pane first, and only the panes are spread over their windows.
        """
        return partial_sql(self.shape, self.parts, relation)

    @property
    def cold(self) -> str:
        """The table of final rows: the state's columns, no index, never upserted."""
        return f'state."{self.name}__{self.version}__cold"'

    def final_condition(self, alias: str) -> str | None:
        """SQL that is true for a state row named `alias` that no event in the log to come can change.

        None for a view without a window: its rows never end.
        """
        if self.window is None:
            return None
        ends = f"{alias}.window_start + to_microseconds({self.window.size})"
        marks = [f"{ends} <= (SELECT watermark FROM ledger.watermarks WHERE topic = '{t}')" for t in self.topics]
        return f"coalesce({' AND '.join(marks)}, false)"

    def freeze_sql(self, limit: int) -> list[str]:
        """Moves up to `limit` final rows, the oldest first, from hot to cold; for one transaction of a *live* view.

        Never while the view is being built: the watermark is then ahead of the rows.
        """
        final = self.final_condition("s")
        if final is None:
            return []
        chosen = f"SELECT s.rowid FROM {self.state} s WHERE {final} ORDER BY s.window_start, s.rowid LIMIT {limit}"
        return [
            f"INSERT INTO {self.cold} BY NAME SELECT * FROM {self.state} WHERE rowid IN ({chosen}) ORDER BY window_start",
            f"DELETE FROM {self.state} WHERE rowid IN ({chosen})",
        ]

    def thaw_sql(self, delta: str) -> list[str]:
        """Moves the cold rows that the rows of `delta` touch back to hot, before they are merged."""
        if self.window is None:
            return []
        touched = f"SELECT DISTINCT {self.key_sql} FROM {delta}"
        return [
            f"INSERT INTO {self.state} BY NAME SELECT * FROM {self.cold} WHERE _key IN ({touched})",
            f"DELETE FROM {self.cold} WHERE _key IN ({touched})",
        ]

    def state_ddl(self) -> list[str]:
        """Creates the empty state: the hot table and the cold one."""
        columns = ", ".join(f"{name} {kind}" for name, kind in self.state_types.items())
        return [
            f"CREATE TABLE IF NOT EXISTS {self.state} (_key UHUGEINT PRIMARY KEY, {columns})",
            f"CREATE TABLE IF NOT EXISTS {self.cold} (_key UHUGEINT, {columns})",
        ]

    @property
    def key_sql(self) -> str:
        """The state's key over the key columns: a 128-bit hash, for ON CONFLICT never matches NULL, and NULL is a key."""
        packed = ", ".join(f"{k} := CAST({k} AS {self.state_types[k]})" for k in self.key_columns) or "all_rows := true"
        return f"md5_number(CAST(to_json(struct_pack({packed})) AS VARCHAR))"

    def merge_sql(self, delta: str) -> list[str]:
        """Upserts the rows of `delta` into the state; to be run inside the sink's transaction."""
        keys = self.key_columns
        combined = ", ".join([*keys, *(f"{p.combine} AS {p.name}" for p in self.parts)])
        group = f" GROUP BY {', '.join(keys)}" if keys else ""
        columns = ["_key", *keys, *(p.name for p in self.parts)]
        typed = [f"CAST({c} AS {self.state_types[c]}) AS {c}" for c in columns[1:]]
        updates = ", ".join(f"{p.name} = {p.update}" for p in self.parts)
        return [
            f"INSERT INTO {self.state} AS stored ({', '.join(columns)}) "
            f"SELECT {self.key_sql} AS _key, {', '.join(typed)} "
            f"FROM (SELECT {combined} FROM {delta}{group}) ON CONFLICT (_key) DO UPDATE SET {updates}"
        ]

    def view_sql(self) -> str:
        """The view people query: the file's columns in its order and types, and `is_final` for windows."""
        where = {name: f"k{i}" for i, name in enumerate(self.shape.keys)}
        where |= {a.name: final_of(i, a) for i, a in enumerate(self.shape.aggregates)}
        if self.window:
            where |= {"window_start": "window_start", "window_end": f"window_start + to_microseconds({self.window.size})"}
        columns = [f"CAST({where.get(n, where.get(n.lower()))} AS {self.types[n]}) AS {quote(n)}" for n in self.shape.outputs]
        if self.window:
            columns.append(f"{self.final_condition('rows')} AS is_final")
        both = f"(SELECT * FROM {self.state} UNION ALL SELECT * FROM {self.cold}) AS rows"
        return f"CREATE OR REPLACE VIEW main.{quote(self.name)} AS SELECT {', '.join(columns)} FROM {both}"

    def batch_sql(self) -> str:
        """The file's query over all accepted events at once: the oracle. Needs the window macros."""
        return batch_sql(self.shape)

    def explain(self) -> str:
        """The plan in words and SQL."""
        w = self.window
        shape = "merge by key" if w is None else f"{w.kind}: size {w.size / 1e6:g} s, slide {w.slide / 1e6:g} s, pane {w.pane / 1e6:g} s; merge by (window, keys)"
        return "\n".join(
            [
                f"{self.name}: {self.description}",
                f"shape    {shape}",
                f"topic    {self.shape.topic}",
                f"version  {self.version}",
                f"state    {self.state} ({', '.join(f'{k} {v}' for k, v in self.state_types.items())})",
                "",
                "-- over each batch of accepted events",
                self.partial_sql("batch"),
                "",
                "-- in the sink's transaction",
                *self.merge_sql("delta"),
                "",
                "-- what people query",
                self.view_sql(),
            ]
        )


def partial_sql(shape: Shape, parts: list[Part], relation: str) -> str:
    """See `ViewPlan.partial_sql`."""
    where = f" WHERE {shape.where}" if shape.where else ""
    keys = [f"{sql} AS k{i}" for i, sql in enumerate(shape.keys.values())]
    made = [f"{p.partial} AS {p.name}" for p in parts]
    if shape.window is None:
        group = f" GROUP BY {', '.join(str(i + 1) for i in range(len(keys)))}" if keys else " HAVING count(*) > 0"
        return f"SELECT {', '.join([*keys, *made])} FROM {relation}{where}{group}"
    w = shape.window
    start = f"time_bucket(to_microseconds({w.pane}), event_time, {ORIGIN})"
    group = f" GROUP BY {', '.join(str(i + 1) for i in range(len(keys) + 1))}"
    panes = f"SELECT {', '.join([f'{start} AS window_start', *keys, *made])} FROM {relation}{where}{group}"
    if w.kind == "tumble":
        return panes
    first = f"time_bucket(to_microseconds({w.slide}), window_start - to_microseconds({w.size}), {ORIGIN}) + to_microseconds({w.slide})"
    spread = f"unnest(generate_series({first}, window_start, to_microseconds({w.slide}))) AS window_start"
    names = [f"k{i}" for i in range(len(keys))]
    combined = ", ".join(["window_start", *names, *(f"{p.combine} AS {p.name}" for p in parts)])
    return f"SELECT {combined} FROM (SELECT * REPLACE ({spread}) FROM ({panes})) GROUP BY {', '.join(['window_start', *names])}".replace(
        f"SELECT * REPLACE ({spread})", f"SELECT * EXCLUDE (window_start), {spread}"
    )


def batch_sql(shape: Shape) -> str:
    """See `ViewPlan.batch_sql`."""
    by_name = {a.name: a for a in shape.aggregates}
    columns = []
    for name in shape.outputs:
        if name in by_name:
            a = by_name[name]
            keep = f" FILTER (WHERE {a.condition})" if a.condition else ""
            if a.kind.startswith("arg_"):
                made = f"({_arg_best(a)}).v"
            elif a.kind == "avg":
                made = f"(sum({a.args[0]}){keep})::DOUBLE / nullif(count({a.args[0]}){keep}, 0)"
            else:
                made = f"{a.kind}({a.args[0]}){keep}"
        else:
            made = shape.keys.get(name, name)
        columns.append(f"{made} AS {quote(name)}")
    w = shape.window
    source = shape.topic
    if w is not None:
        spans = [w.size] if w.kind == "tumble" else [w.slide, w.size]
        source = f"{w.kind}({shape.topic}, {', '.join(f'to_microseconds({n})' for n in spans)})"
    where = f" WHERE {shape.where}" if shape.where else ""
    # A window is a group even when the file does not select it.
    keys = list(shape.keys.values()) + (["window_start", "window_end"] if w else [])
    group = f" GROUP BY {', '.join(f'({k})' for k in keys)}" if keys else " HAVING count(*) > 0"
    return f"SELECT {', '.join(columns)} FROM {source}{where}{group}"


def describe(con: duckdb.DuckDBPyConnection, sql: str) -> dict[str, str]:
    """Column -> type of a query."""
    return {row[0]: row[1] for row in con.execute(f"DESCRIBE {sql}").fetchall()}
