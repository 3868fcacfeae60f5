"""Attributions: each left event with the right event nearest in time, by key.

A row keeps the best right event seen so far, as a struct that begins with (event_time, event_id): a better one is a
greater struct, or a lesser one. A left event that comes looks among the stored right events; a right event
that comes is offered to the stored rows. So the order of arrival does not matter. A row is final once the
watermarks have passed all that could still be nearer; then right events that no row to come can take are dropped.
"""

# ruff: noqa: D102 - what a method of a plan does, `ViewPlan` says

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from tallystream.views.names import micros
from tallystream.views.plan import DELTA, ViewPlan
from tallystream.views.relation import Relation
from tallystream.views.shape import Attribution, Side, Window

# Microseconds around the delta's times in which most matches stand. The join sorts all right rows of the keys asked for:
# of a second they are few, and the keys without a match there are the rare ones.
CLOSE = 1_000_000


@dataclass(frozen=True)
class AttributionPlan(ViewPlan):
    """State: t, id (of the left event), j0… (equal keys), l0… (left columns), r (the best right event or NULL)."""

    shape: Attribution

    @property
    def relations(self) -> tuple[Relation, ...]:
        return (self.shape.left.relation, self.shape.right.relation)

    @property
    def window(self) -> Window:
        return Window("asof", max(self._reach, 0), max(self._reach, 0))

    @property
    def description(self) -> str:
        return self.shape.description

    @property
    def canonical(self) -> str:
        return self.shape.canonical

    @property
    def forgets(self) -> bool:
        return True

    @property
    def time_column(self) -> str:
        return "t"

    @property
    def _reach(self) -> int:
        """How long after a left event a right one can still be its best, microseconds."""
        s = self.shape
        return s.bound if s.backward else s.guard or 0

    @property
    def right(self) -> str:
        """The table of right events that a left event to come may take."""
        return self.table("__right")

    @property
    def _keys(self) -> list[str]:
        return [f"j{i}" for i in range(len(self.shape.left.keys))]

    def partial_sql(self, relation: str, topic: str = "") -> str:
        return partial_sql(self.shape, relation, (topic,) if topic else self.topics)

    def state_ddl(self) -> list[str]:
        keys = ", ".join(f"{k} {self.state_types[k]}" for k in self._keys)
        return [
            *super().state_ddl(),
            f"CREATE TABLE IF NOT EXISTS {self.right} ({keys}, t TIMESTAMP, r {self.state_types['r']})",
        ]

    def merge_sql(self, delta: str) -> list[str]:
        return self._merge_sql(delta, None)

    def merge(self, con: duckdb.DuckDBPyConnection, delta: pa.Table) -> None:
        # The delta's times as constants: DuckDB then skips the stored rows outside by their zone maps.
        times: dict[str, Any] = {"left": (None, None), "right": (None, None)}
        for found in delta.group_by("side").aggregate([("t", "min"), ("t", "max")]).to_pylist():
            times[found["side"]] = (found["t_min"], found["t_max"])
        con.register(DELTA, delta)
        try:
            for statement in self._merge_sql(DELTA, times):
                con.execute(statement)
        finally:
            con.unregister(DELTA)

    def _merge_sql(self, delta: str, times: Mapping[str, Any] | None) -> list[str]:
        s, keys = self.shape, ", ".join(self._keys)
        better = ">" if s.backward else "<"
        columns = ", ".join(c for c in self.state_types if c != "r")
        mine = (
            f"SELECT s.rowid AS n, {keys}, s.t FROM {self.state} s SEMI JOIN {delta} d USING ({keys}) "
            f"WHERE {self._lefts_near('s', times)}"
        )
        theirs = f"(FROM {delta} d SEMI JOIN tally_lefts l USING ({keys}) WHERE d.side = 'right')"
        rest = "(FROM tally_lefts ANTI JOIN tally_best USING (n))"
        stored = f"(FROM {self.right} x SEMI JOIN {rest} l USING ({keys}) WHERE {self._rights_near('x', times)}{{}})"
        found = [
            f"INSERT INTO tally_best {self._nearest(f'SELECT n, {keys}, t FROM {rest}', stored.format(near))}"
            for near in ([] if times is None else [self._close("x", times)]) + [""]
        ]
        of_rights = [
            f"INSERT INTO {self.right} SELECT {keys}, t, r FROM {delta} WHERE side = 'right'",
            f"CREATE OR REPLACE TEMP TABLE tally_lefts AS {mine}",
            f"UPDATE {self.state} AS s SET r = o.r FROM ({self._nearest('FROM tally_lefts', theirs)}) o "
            f"WHERE s.rowid = o.n AND (s.r IS NULL OR o.r {better} s.r)",
        ]
        of_lefts = [
            f"CREATE OR REPLACE TEMP TABLE tally_lefts AS SELECT {columns}, row_number() OVER () AS n FROM {delta} WHERE side = 'left'",
            f"CREATE OR REPLACE TEMP TABLE tally_best (n BIGINT, r {self.state_types['r']})",
            # Most right events stand close by: only for the others is the long past sorted.
            *found,
            f"INSERT INTO {self.state} BY NAME SELECT l.* EXCLUDE (n), b.r FROM tally_lefts l LEFT JOIN tally_best b USING (n)",
        ]
        # Statements over no rows cost as much as over a few: a third of a small commit.
        there = {side: times is None or times[side][0] is not None for side in ("right", "left")}
        return [*(of_rights if there["right"] else []), *(of_lefts if there["left"] else [])]

    def _nearest(self, lefts: str, rights: str) -> str:
        """(n, r): of each left row the nearest right one; of several at one time the one by event_id.

        The join finds the time alone: it sorts no wide rows, and which of several it would take does not matter.
        """
        s, keys = self.shape, ", ".join(self._keys)
        guard = ""
        if s.guard is not None and s.outer:
            # What every output takes for none: freezing may have dropped it, or not yet.
            guard = f" WHERE x.t {'>=' if s.backward else '<='} l.t + {micros(s.guard)}"
        listed = ", ".join(f"l.{k}" for k in self._keys)
        at = f"SELECT l.n, {listed}, x.t FROM ({lefts}) l ASOF JOIN (SELECT {keys}, t FROM {rights}) x ON {self._fits('l', 'x')}{guard}"
        return f"SELECT b.n, {'max' if s.backward else 'min'}(x.r) AS r FROM {rights} x JOIN ({at}) b USING ({keys}, t) GROUP BY b.n"

    def _fits(self, left: str, right: str) -> str:
        """The condition of the join ASOF; NULL keys never meet."""
        s = self.shape
        how = {(True, False): ">=", (True, True): ">", (False, False): "<=", (False, True): "<"}[s.backward, s.strict]
        equal = [f"{left}.{k} = {right}.{k}" for k in self._keys]
        return " AND ".join([*equal, f"{left}.t + {micros(s.bound)} {how} {right}.t"])

    def _lefts_near(self, left: str, times: Mapping[str, Any] | None) -> str:
        """Of left events, those that a right event of the delta can be for."""
        if times is None or times["right"][0] is None:
            return "true" if times is None else "false"
        s, (first, last) = self.shape, times["right"]
        if s.backward:
            return f"{left}.t >= TIMESTAMP '{first}' - {micros(s.bound)}"
        return f"{left}.t <= TIMESTAMP '{last}' - {micros(s.bound)}"

    def _close(self, right: str, times: Mapping[str, Any]) -> str:
        """A range in which a right event that is found is the nearest: up to the best time for any left event."""
        if times["left"][0] is None:
            return ""
        first, last = times["left"]
        if self.shape.backward:
            return f" AND {right}.t >= TIMESTAMP '{first}' + {micros(self.shape.bound - CLOSE)}"
        return f" AND {right}.t <= TIMESTAMP '{last}' + {micros(self.shape.bound + CLOSE)}"

    def _rights_near(self, right: str, times: Mapping[str, Any] | None) -> str:
        """Of right events, those that can be for a left event of the delta."""
        if times is None or times["left"][0] is None:
            return "true" if times is None else "false"
        s, (first, last) = self.shape, times["left"]
        guarded = s.guard is not None and s.outer
        if s.backward:
            from_guard = f" AND {right}.t >= TIMESTAMP '{first}' + {micros(s.guard or 0)}" if guarded else ""
            return f"{right}.t <= TIMESTAMP '{last}' + {micros(s.bound)}{from_guard}"
        to_guard = f" AND {right}.t <= TIMESTAMP '{last}' + {micros(s.guard or 0)}" if guarded else ""
        return f"{right}.t >= TIMESTAMP '{first}' + {micros(s.bound)}{to_guard}"

    def view_sql(self) -> str:
        return self.shown([(o.name, o.sql) for o in self.shape.outputs], "" if self.shape.outer else "r IS NOT NULL")

    def final_condition(self, alias: str) -> str | None:
        # One microsecond more: an event at the watermark itself may still come.
        return self.passed(f"{alias}.t + {micros(max(self._reach, 0) + 1)}")

    def freeze_sql(self, limit: int) -> list[str]:
        s = self.shape
        marks = [f"(SELECT watermark FROM ledger.watermarks WHERE topic = '{t}')" for t in s.left.relation.topics]
        # A left event to come is at this time or later. NULL, when a topic has no watermark, drops nothing.
        coming = (
            marks[0]
            if len(marks) == 1
            else f"(SELECT CASE WHEN count(*) = count(w) THEN min(w) END FROM (VALUES {', '.join(f'({m})' for m in marks)}) v(w))"
        )
        dropped = []
        if s.backward:
            older = f"SELECT rowid AS _row, row_number() OVER (PARTITION BY {', '.join(self._keys)} ORDER BY r DESC) AS n FROM {self.right} WHERE t < {coming} + {micros(s.bound)}"
            dropped.append(f"DELETE FROM {self.right} WHERE rowid IN (SELECT _row FROM ({older}) WHERE n > 1)")
            if s.guard is not None and s.outer:
                dropped.append(f"DELETE FROM {self.right} WHERE t < {coming} + {micros(s.guard)}")
        else:
            dropped.append(f"DELETE FROM {self.right} WHERE t < {coming} + {micros(s.bound)}")
        return super().freeze_sql(limit) + dropped

    def thaw_sql(self, delta: str) -> list[str]:
        near = f"c.t + {micros(self.shape.bound)} {'>=' if self.shape.backward else '<='} d.t"
        rights = f"SELECT * FROM {delta} WHERE side = 'right'"
        equal = " AND ".join(f"c.{k} = d.{k}" for k in self._keys)
        touched = f"SELECT c.rowid FROM {self.cold} c SEMI JOIN ({rights}) d ON {equal} AND {near}"
        return [
            f"INSERT INTO {self.state} BY NAME SELECT * FROM {self.cold} WHERE rowid IN ({touched})",
            f"DELETE FROM {self.cold} WHERE rowid IN ({touched})",
        ]

    def batch_sql(self) -> str:
        return self.shape.batch_sql

    def shape_in_words(self) -> str:
        s = self.shape
        nearest = "the last" if s.backward else "the first"
        kept = "" if s.guard is None else f", within {abs(s.guard - s.bound) / 1e6:g} s"
        return f"attribution: each of {s.left.relation.name} with {nearest} of {s.right.relation.name} by key{kept}"


def partial_sql(shape: Attribution, relation: str, topics: Iterable[str]) -> str:
    """Both sides of the topics as rows of one form; `side` tells them apart."""
    selects = []
    for side, name in ((shape.left, "left"), (shape.right, "right")):
        # The columns of the other side are NULL, with its types.
        selects += [
            _side_sql(shape, side, name, side.relation.over(t, relation)) for t in topics if t in side.relation.topics
        ]
    return " UNION ALL ".join(selects)


def _side_sql(shape: Attribution, side: Side, name: str, source: str) -> str:
    is_left = name == "left"

    def typed(relation: Relation, column: str, mine: bool) -> str:
        kind = relation.columns[column]
        return f"CAST({column if mine else 'NULL'} AS {kind})"

    left, right = shape.left, shape.right
    columns = [
        f"'{name}' AS side",
        *(f"{k} AS j{i}" for i, k in enumerate(side.keys)),
        "event_time AS t",
        "event_id AS id",
    ]
    columns += [f"{typed(left.relation, c, is_left)} AS l{i}" for i, c in enumerate(left.columns)]
    packed = ", ".join(
        [
            "t := event_time",
            "id := event_id",
            *(f"c{i} := {typed(right.relation, c, True)}" for i, c in enumerate(right.columns)),
        ]
    )
    kinds = ", ".join(
        ["t TIMESTAMP", "id VARCHAR", *(f"c{i} {right.relation.columns[c]}" for i, c in enumerate(right.columns))]
    )
    columns.append(f"{'NULL' if is_left else f'struct_pack({packed})'}::STRUCT({kinds}) AS r")
    where = f" WHERE {side.where}" if side.where else ""
    return f"SELECT {', '.join(columns)} FROM {source}{where}"
