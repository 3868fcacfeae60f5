"""A view's plan: the SQL of its partial, its state, its merge, the view people see, and its batch form.

Every plan keeps its rows in two tables with the same columns: a hot one for what can still change, a cold one for
what cannot. What people query is their UNION ALL.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import duckdb
import pyarrow as pa

from tallystream.views.names import quote
from tallystream.views.relation import Relation
from tallystream.views.shape import Window

__all__ = ["ViewPlan", "quote"]

# Part of every version: raised when the generated state changes, so that old state is never mixed with new.
PLAN_VERSION = 3
DELTA = "tally_delta"


@dataclass(frozen=True)
class ViewPlan(ABC):
    """One view: what the file says, and the SQL that keeps it.

    `types`: output column -> DuckDB type, as the file's own query gives them. `state_types`: the columns of its state.
    """

    name: str
    path: Path
    sql: str
    types: dict[str, str]
    state_types: dict[str, str]

    @property
    @abstractmethod
    def relations(self) -> tuple[Relation, ...]:
        """What it reads."""

    @property
    @abstractmethod
    def window(self) -> Window | None:
        """Its window, or None when its rows never end: totals and latest state."""

    @property
    @abstractmethod
    def description(self) -> str:
        """The file's leading comment."""

    @property
    @abstractmethod
    def canonical(self) -> str:
        """The file's SQL without comments and white space."""

    @property
    @abstractmethod
    def forgets(self) -> bool:
        """Whether freezing drops what a late change would need: frozen rows then can only be rebuilt, not amended."""

    @abstractmethod
    def partial_sql(self, relation: str, topic: str = "") -> str:
        """SELECT over one batch of accepted events of `topic`, a table named `relation`; its rows are a delta."""

    @abstractmethod
    def merge_sql(self, delta: str) -> list[str]:
        """Puts the rows of `delta` into the state; to be run in order, inside the sink's transaction."""

    @abstractmethod
    def view_sql(self) -> str:
        """The view people query: the file's columns in its order and types, and `is_final` unless rows never end."""

    @abstractmethod
    def batch_sql(self) -> str:
        """The file's query over all accepted events at once, with our rules for ties. Needs the window macros."""

    @abstractmethod
    def final_condition(self, alias: str) -> str | None:
        """SQL that is true for a state row named `alias` that no event in the log to come can change.

        None for a view whose rows never end.
        """

    @abstractmethod
    def thaw_sql(self, delta: str) -> list[str]:
        """Moves the cold rows that the rows of `delta` touch back to hot, before they are merged."""

    @abstractmethod
    def shape_in_words(self) -> str:
        """How it is kept, for `tally views explain`."""

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics it reads."""
        return tuple(sorted({topic for relation in self.relations for topic in relation.topics}))

    @cached_property
    def definition_hash(self) -> str:
        """Of the canonical SQL, what it reads and the plan's format; comments and white space do not matter."""
        types = ",".join(f"{k} {v}" for k, v in self.state_types.items())
        read = "\n".join(f"{r.name} {t} {s}" for r in self.relations for t, s in r.sources.items() if r.name != t)
        return hashlib.sha256(f"{PLAN_VERSION}\n{self.canonical}\n{types}\n{read}".encode()).hexdigest()

    @property
    def version(self) -> str:
        """Eight hex digits that tell one definition from another."""
        return self.definition_hash[:8]

    def table(self, suffix: str = "") -> str:
        """A table of this version's state."""
        return f'state."{self.name}__{self.version}{suffix}"'

    @property
    def state(self) -> str:
        """The hot table: rows that can still change."""
        return self.table()

    @property
    def cold(self) -> str:
        """The table of final rows: the hot one's columns, no index, never upserted."""
        return self.table("__cold")

    @property
    def primary_key(self) -> str:
        """The column by which hot rows are upserted; empty when they are replaced."""
        return ""

    def state_ddl(self) -> list[str]:
        """Creates the empty state."""
        columns = ", ".join(f"{name} {kind}" for name, kind in self.state_types.items())
        key, hash_key = (
            (f"{self.primary_key} UHUGEINT PRIMARY KEY, ", f"{self.primary_key} UHUGEINT, ")
            if self.primary_key
            else ("", "")
        )
        return [
            f"CREATE TABLE IF NOT EXISTS {self.state} ({key}{columns})",
            f"CREATE TABLE IF NOT EXISTS {self.cold} ({hash_key}{columns})",
        ]

    def merge(self, con: duckdb.DuckDBPyConnection, delta: pa.Table) -> None:
        """Merges the rows of a delta into the state; the caller holds the transaction."""
        con.register(DELTA, delta)
        try:
            for statement in self.merge_sql(DELTA):
                con.execute(statement)
        finally:
            con.unregister(DELTA)

    @property
    def frozen_columns(self) -> dict[str, str]:
        """Column -> what becomes of it when its row is final."""
        return {}

    @property
    def time_column(self) -> str:
        """The state's column by which rows age."""
        return "window_start"

    def freeze_sql(self, limit: int) -> list[str]:
        """Moves up to `limit` final rows, the oldest first, from hot to cold, and drops what only open rows need.

        For one transaction, of a *live* view: while a view is being built, the watermark is ahead of its rows.
        """
        final = self.final_condition("s")
        if final is None:
            return []
        chosen = (
            f"SELECT s.rowid FROM {self.state} s WHERE {final} ORDER BY s.{self.time_column}, s.rowid LIMIT {limit}"
        )
        replaced = ", ".join(f"{made} AS {name}" for name, made in self.frozen_columns.items())
        columns = f"* REPLACE ({replaced})" if replaced else "*"
        return [
            f"INSERT INTO {self.cold} BY NAME SELECT {columns} FROM {self.state} WHERE rowid IN ({chosen}) ORDER BY {self.time_column}",
            f"DELETE FROM {self.state} WHERE rowid IN ({chosen})",
        ]

    def passed(self, time: str) -> str:
        """SQL: whether the watermark of every topic is at or after `time`."""
        marks = [f"{time} <= (SELECT watermark FROM ledger.watermarks WHERE topic = '{t}')" for t in self.topics]
        return f"coalesce({' AND '.join(marks)}, false)"

    def shown(self, outputs: list[tuple[str, str]], where: str, layer: Sequence[str] = (), more: str = "") -> str:
        """The view over both tables: (name, SQL over a state row) by column.

        `where`: which rows, all when empty. `layer`: columns computed of a row before the outputs. `more`: rows
        beside those of the tables. A value that its column's type cannot hold is NULL: one row must not make all
        others unreadable.
        """
        columns = [f"TRY_CAST({sql} AS {self.types[name]}) AS {quote(name)}" for name, sql in outputs]
        final = self.final_condition("rows")
        if final is not None:
            columns.append(f"{final} AS is_final")
        rows = f"(SELECT * FROM {self.state} UNION ALL SELECT * FROM {self.cold}{more})"
        if layer:
            rows = f"(SELECT *, {', '.join(layer)} FROM {rows})"
        kept = f" WHERE {where}" if where else ""
        return (
            f"CREATE OR REPLACE VIEW main.{quote(self.name)} AS SELECT {', '.join(columns)} FROM {rows} AS rows{kept}"
        )

    def explain(self) -> str:
        """The plan in words and SQL."""
        partials = [f"-- over each batch of accepted {t}\n{self.partial_sql('batch', t)}\n" for t in self.topics]
        return "\n".join(
            [
                f"{self.name}: {self.description}",
                f"shape    {self.shape_in_words()}",
                f"topics   {', '.join(self.topics)}",
                f"version  {self.version}",
                f"state    {self.state} ({', '.join(f'{k} {v}' for k, v in self.state_types.items())})",
                "",
                *partials,
                "-- in the sink's transaction",
                *self.merge_sql("delta"),
                "",
                "-- what people query",
                self.view_sql(),
            ]
        )
