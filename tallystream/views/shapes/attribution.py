"""Attributions: each left event with the right event nearest in time, by key.

A row keeps the best right event seen so far, as a struct that begins with (event_time, event_id): a better one is a
greater struct, or a lesser one. A left event that comes looks among the stored right events; a right event
that comes is offered to the stored rows. So the order of arrival does not matter. A row is final once the
watermarks have passed all that could still be nearer; then right events that no row to come can take are dropped.
"""

# ruff: noqa: D102 - what a method of a plan does, `ViewPlan` says

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tallystream.views.dialect import micros
from tallystream.views.plan import ViewPlan
from tallystream.views.relations import Relation
from tallystream.views.shape import Attribution, Side, Window


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
        how = "max" if self.shape.backward else "min"
        better = ">" if self.shape.backward else "<"
        keys = ", ".join(self._keys)
        columns = ", ".join(c for c in self.state_types if c != "r")
        offered = f"SELECT s.rowid AS _row, {how}(d.r) AS r FROM {self.state} s JOIN {delta} d ON d.side = 'right' AND {self._fits('s', 'd')} GROUP BY ALL"
        best = (
            f"SELECT l.n, {how}(x.r) AS r FROM {self.right} x JOIN tally_lefts l ON {self._fits('l', 'x')} GROUP BY ALL"
        )
        return [
            f"INSERT INTO {self.right} SELECT {keys}, t, r FROM {delta} WHERE side = 'right'",
            f"UPDATE {self.state} AS s SET r = o.r FROM ({offered}) o WHERE s.rowid = o._row AND (s.r IS NULL OR o.r {better} s.r)",
            f"CREATE OR REPLACE TEMP TABLE tally_lefts AS SELECT {columns}, row_number() OVER () AS n FROM {delta} WHERE side = 'left'",
            f"INSERT INTO {self.state} BY NAME SELECT l.* EXCLUDE (n), b.r FROM tally_lefts l LEFT JOIN ({best}) b USING (n)",
        ]

    def _fits(self, left: str, right: str) -> str:
        """Whether the right row may be the left row's; NULL keys never are."""
        s = self.shape
        how = {(True, False): "<=", (True, True): "<", (False, False): ">=", (False, True): ">"}[s.backward, s.strict]
        found = [f"{left}.{k} = {right}.{k}" for k in self._keys]
        found.append(f"{right}.t {how} {left}.t + {micros(s.bound)}")
        if s.guard is not None and s.outer:
            found.append(f"{right}.t {'>=' if s.backward else '<='} {left}.t + {micros(s.guard)}")
        return " AND ".join(found)

    def view_sql(self) -> str:
        return self.shown([(o.name, o.sql) for o in self.shape.outputs], None if self.shape.outer else "r IS NOT NULL")

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
        touched = f"SELECT c.rowid FROM {self.cold} c SEMI JOIN (SELECT * FROM {delta} WHERE side = 'right') d ON {self._fits('c', 'd')}"
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
