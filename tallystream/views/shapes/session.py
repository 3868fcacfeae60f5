"""Sessions: neighbours in time of one key that are less than the gap apart, whatever the order they arrive in.

A state row is a session (or one group of it, when the view has more keys than the session's): its first and
last event, and its aggregates. Stored sessions of a key are a gap or more apart, so one is touched only by a
fragment of the delta that is nearer than that; those are taken out, joined with the delta, and put back.
"""

# ruff: noqa: D102 - what a method of a plan does, `ViewPlan` says

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from tallystream.views.aggregates import Aggregate, Part, parts_of
from tallystream.views.names import micros
from tallystream.views.plan import DELTA, ViewPlan
from tallystream.views.shape import Grouped
from tallystream.views.shapes.grouped import GroupedPlan
from tallystream.views.shapes.grouped_sql import parts_in

# Hidden: the rows of a session that WHERE lets pass. The session is made of all events, as in SQL.
PASSED = "passed"


@dataclass(frozen=True)
class SessionPlan(GroupedPlan):
    """Overlapping sessions merge, and their aggregates with them; sets are columns of the row."""

    @property
    def _gap(self) -> str:
        assert self.shape.window is not None
        return micros(self.shape.window.size)

    @property
    def _session_key(self) -> str:
        return f"k{self.shape.keys.index(str(self.shape.session_key))}"

    @cached_property
    def aggregates(self) -> tuple[Aggregate, ...]:
        return kept_aggregates(self.shape)

    @cached_property
    def in_row(self) -> bool:
        return True

    @property
    def members(self) -> list[int]:
        return []

    @property
    def primary_key(self) -> str:
        return ""

    @cached_property
    def parts(self) -> list[Part]:
        return session_parts(self.shape)

    def partial_sql(self, relation: str, topic: str = "") -> str:
        return session_partial_sql(self.shape, self.shape.relation.over(topic or self.topics[0], relation))

    def merge_sql(self, delta: str) -> list[str]:
        return self._merge_sql(delta, "true")

    def merge(self, con: duckdb.DuckDBPyConnection, delta: pa.Table) -> None:
        # The delta's bounds as constants: DuckDB then skips the stored sessions outside by their zone maps.
        first, last = pc.min(delta["window_start"]).as_py(), pc.max(delta["last_time"]).as_py()
        near = f"s.last_time > TIMESTAMP '{first}' - {self._gap} AND s.window_start < TIMESTAMP '{last}' + {self._gap}"
        con.register(DELTA, delta)
        try:
            for statement in self._merge_sql(DELTA, near):
                con.execute(statement)
        finally:
            con.unregister(DELTA)

    def _near(self, s: str, d: str) -> str:
        key = self._session_key
        return (
            f"{s}.{key} IS NOT DISTINCT FROM {d}.{key} AND {d}.window_start < {s}.last_time + {self._gap} "
            f"AND {s}.window_start < {d}.last_time + {self._gap}"
        )

    def _merge_sql(self, delta: str, near: str) -> list[str]:
        key, keys = self._session_key, [f"k{i}" for i in range(len(self.shape.keys))]
        names = ["window_start", "last_time", *keys, *(p.name for p in self.parts)]
        both = " UNION ALL ".join(f"SELECT {', '.join(names)} FROM {t}" for t in ("tally_touched", delta))
        grouped = ["window_start", "last_time", *keys]
        parts = [f"{p.combine} AS {p.name}" for p in self.parts]
        settled = ", ".join(
            [*grouped, *(f"CAST({p.settled} AS {self.state_types[p.name]}) AS {p.name}" for p in self.parts)]
        )
        several, one = f"({both})", ""
        if len(keys) == 1:
            # The fragments of most keys are nearer to each other than the gap: they and all they touch are one session.
            far = f"SELECT {key} FROM {delta} GROUP BY 1 HAVING max(last_time) >= min(window_start) + {self._gap}"
            same = f"b.{key} IS NOT DISTINCT FROM f.{key}"
            several = f"(SELECT b.* FROM ({both}) b SEMI JOIN ({far}) f ON {same})"
            bounds = "min(window_start) AS window_start, max(last_time) AS last_time"
            one = f"SELECT {', '.join([bounds, key, *parts])} FROM ({both}) b ANTI JOIN ({far}) f ON {same} GROUP BY {key} UNION ALL "
        return [
            f"CREATE OR REPLACE TEMP TABLE tally_touched AS SELECT s.rowid AS _row, s.* FROM {self.state} s "
            f"SEMI JOIN {delta} d ON {self._near('s', 'd')} WHERE {near}",
            f"DELETE FROM {self.state} WHERE rowid IN (SELECT _row FROM tally_touched)",
            f"INSERT INTO {self.state} BY NAME SELECT {settled} FROM "
            f"({one}SELECT {', '.join([*grouped, *parts])} FROM ({self._joined(several)}) GROUP BY {', '.join(grouped)})",
        ]

    def _joined(self, fragments: str) -> str:
        """The fragments with the bounds of the sessions that they make together; every group of a session has them."""
        by = f"PARTITION BY {self._session_key} ORDER BY window_start, last_time"
        before = f"max(last_time) OVER ({by} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
        marked = (
            f"SELECT *, CASE WHEN window_start < {before} + {self._gap} THEN 0 ELSE 1 END AS _first FROM {fragments}"
        )
        # Fragments with equal bounds are counted together: their order here need not be that of `before`.
        numbered = f"SELECT *, sum(_first) OVER ({by}) AS _nr FROM ({marked})"
        bounds = "min(window_start) OVER same AS window_start, max(last_time) OVER same AS last_time"
        same = f"WINDOW same AS (PARTITION BY {self._session_key}, _nr)"
        return f"SELECT * EXCLUDE (window_start, last_time), {bounds} FROM ({numbered}) {same}"

    def view_sql(self) -> str:
        return self._shown(f"(rows.last_time + {self._gap})", [f"{PASSED} > 0"] if self.shape.where else [])

    def final_condition(self, alias: str) -> str | None:
        return self.passed(f"{alias}.last_time + {self._gap}")

    def freeze_sql(self, limit: int) -> list[str]:
        return ViewPlan.freeze_sql(self, limit)

    def thaw_sql(self, delta: str) -> list[str]:
        touched = f"SELECT c.rowid FROM {self.cold} c SEMI JOIN {delta} d ON {self._near('c', 'd')}"
        return [
            f"INSERT INTO {self.state} BY NAME SELECT * FROM {self.cold} WHERE rowid IN ({touched})",
            f"DELETE FROM {self.cold} WHERE rowid IN ({touched})",
        ]

    def shape_in_words(self) -> str:
        assert self.shape.window is not None
        return f"session by {self.shape.session_key}: gap {self.shape.window.size / 1e6:g} s; sessions that come nearer than that merge"


def kept_aggregates(shape: Grouped) -> tuple[Aggregate, ...]:
    """WHERE beside a session filters what is aggregated, not what the session is made of."""
    return tuple(a.where(shape.where) for a in shape.aggregates)


def session_parts(shape: Grouped) -> list[Part]:
    """The mergeable columns of a session."""
    parts = parts_in(kept_aggregates(shape), True)
    if shape.where:
        (passed,) = parts_of(0, Aggregate("count", ("*",), shape.where))
        parts.append(Part(PASSED, passed.partial, f"CAST(sum({PASSED}) AS BIGINT)"))
    return parts


def session_partial_sql(shape: Grouped, source: str) -> str:
    """The sessions of one batch.

    Most keys have one session in a batch: theirs are plain groups, a fifth of the work of the windows that the
    other keys need.
    """
    assert shape.window is not None
    key, gap = shape.session_key, micros(shape.window.size)
    keys = [f"{sql} AS k{i}" for i, sql in enumerate(shape.keys)]
    made = [f"{p.partial} AS {p.name}" for p in session_parts(shape)]
    first, last = "min(event_time)", "max(event_time)"
    if len(keys) > 1:
        columns = ", ".join(["_from AS window_start", "_to AS last_time", *keys, *made])
        bounds = f"SELECT *, {first} OVER same AS _from, {last} OVER same AS _to FROM ({_numbered(key, gap, source)})"
        groups = ", ".join(["_nr", "1", "2", *(str(i + 3) for i in range(len(keys)))])
        return f"SELECT {columns} FROM ({bounds} WINDOW same AS (PARTITION BY ({key}), _nr)) GROUP BY {groups}"
    columns = ", ".join([f"{first} AS window_start", f"{last} AS last_time", *keys, *made])
    several = f"SELECT {key} AS _key FROM {source} GROUP BY 1 HAVING {last} >= {first} + {gap}"
    theirs = f"(SELECT * FROM {source} SEMI JOIN ({several}) ON ({key}) IS NOT DISTINCT FROM _key)"
    return (
        f"SELECT {columns} FROM {source} GROUP BY 3 HAVING {last} < {first} + {gap} "
        f"UNION ALL SELECT {columns} FROM ({_numbered(key, gap, theirs)}) GROUP BY _nr, 3"
    )


def _numbered(key: str | None, gap: str, source: str) -> str:
    """The rows with `_nr`, which counts the sessions of their key."""
    by = f"PARTITION BY ({key}) ORDER BY event_time"
    first = f"CASE WHEN event_time < lag(event_time) OVER ({by}) + {gap} THEN 0 ELSE 1 END"
    # Events at one time are counted together: their order here need not be that of `lag`.
    return f"SELECT *, sum(_first) OVER ({by}) AS _nr FROM (SELECT *, {first} AS _first FROM {source})"
