"""Which rows of a view a check looks at, and which events make exactly these: for every shape of view.

A row is chosen together with the stretch of time, and the keys, of the events that can have made it. Read again, they make
the row, and nothing else within the stretch: a session that should have been joined with another shows, too.
"""

from __future__ import annotations

from dataclasses import dataclass

from tallystream.views.names import micros
from tallystream.views.plan import ViewPlan, quote
from tallystream.views.relation import Relation
from tallystream.views.shapes.attribution import AttributionPlan
from tallystream.views.shapes.grouped import GroupedPlan
from tallystream.views.shapes.session import SessionPlan


@dataclass(frozen=True)
class Sample:
    """`chosen`: a SELECT over the view, a row for each thing looked at: k0… (keys), low, high (event times, half-open; NULL: open).

    `match`: SQL, whether a row `v` of the view belongs to a row `c` of the chosen ones. `sides`: relations whose rows make
    them, with the SQL of k0…. `what`: for people.
    """

    what: str
    chosen: str
    match: str
    sides: tuple[tuple[Relation, tuple[str, ...]], ...]

    def events(self, topic: str, table: str) -> list[str]:
        """SELECTs of the ids, among the events of `topic` in `table`, that can have made what is `chosen`."""
        found = []
        for relation, keys in self.sides:
            if topic in relation.topics:
                same = [f"r.{quote(f'k{i}')} IS NOT DISTINCT FROM c.k{i}" for i in range(len(keys))]
                told = [*same, "coalesce(r.t >= c.low, true)", "coalesce(r.t < c.high, true)"]
                columns = ["event_id", "event_time AS t", *(f"({sql}) AS k{i}" for i, sql in enumerate(keys))]
                rows = f"SELECT {', '.join(columns)} FROM {relation.over(topic, table)}"
                found.append(f"SELECT r.event_id FROM ({rows}) r SEMI JOIN chosen c ON {' AND '.join(told)}")
        return found


def sample_of(plan: ViewPlan, n: int, seed: int) -> Sample | str:
    """What to look at of a view, `n` of it, another for each seed; or why nothing can be: its columns do not tell."""
    if isinstance(plan, AttributionPlan):
        return _matches(plan, n, seed)
    assert isinstance(plan, GroupedPlan)
    named = {o.sql: f"v.{quote(o.name)}" for o in plan.shape.outputs}
    if isinstance(plan, SessionPlan):
        return _sessions(plan, named, n, seed)
    return _totals(plan, named, n, seed) if plan.window is None else _windows(plan, named, n, seed)


def _windows(plan: GroupedPlan, named: dict[str, str], n: int, seed: int) -> Sample | str:
    assert plan.window is not None
    size = micros(plan.window.size)
    start = named.get("window_start") or (f"({named['window_end']} - {size})" if "window_end" in named else None)
    if start is None:
        return "it shows neither window_start nor window_end"
    columns = {"low": start, "high": f"{start} + {size}"}
    return Sample("windows", _chosen(plan, columns, n, seed), f"{start} = c.low", ((plan.shape.relation, ()),))


def _sessions(plan: SessionPlan, named: dict[str, str], n: int, seed: int) -> Sample | str:
    assert plan.window is not None and plan.shape.session_key is not None
    key = named.get(f"__k{plan.shape.keys.index(plan.shape.session_key)}__")
    start, end = named.get("window_start"), named.get("window_end")
    if key is None or start is None or end is None:
        return f"it does not show {plan.shape.session_key}, window_start and window_end"
    # An event of the key nearer than the gap before it would belong to it.
    low = f"{start} - {micros(plan.window.size - 1)}"
    match = f"{key} IS NOT DISTINCT FROM c.k0 AND {start} >= c.low AND {start} < c.high"
    side = (plan.shape.relation, (plan.shape.session_key,))
    return Sample("sessions", _chosen(plan, {"k0": key, "low": low, "high": end}, n, seed), match, (side,))


def _totals(plan: GroupedPlan, named: dict[str, str], n: int, seed: int) -> Sample | str:
    shown = [named.get(f"__k{i}__") for i in range(len(plan.shape.keys))]
    keys = {f"k{i}": name for i, name in enumerate(shown) if name is not None}
    if len(keys) < len(shown):
        return f"it does not show all of {', '.join(plan.shape.keys)}"
    match = " AND ".join(["true", *(f"{name} IS NOT DISTINCT FROM c.{k}" for k, name in keys.items())])
    columns = keys | {"low": "NULL::TIMESTAMP", "high": "NULL::TIMESTAMP"}
    return Sample("keys", _chosen(plan, columns, n, seed), match, ((plan.shape.relation, plan.shape.keys),))


def _matches(plan: AttributionPlan, n: int, seed: int) -> Sample | str:
    shape = plan.shape
    named = {o.sql: f"v.{quote(o.name)}" for o in shape.outputs}
    by_column = {c: named.get(f"rows.l{i}") for i, c in enumerate(shape.left.columns)}
    time, keys = by_column.get("event_time"), [by_column.get(k) for k in shape.left.keys]
    if time is None or None in keys:
        return f"it does not show event_time and {', '.join(shape.left.keys)} of {shape.left.relation.name}"
    ends = [0, shape.bound, *([] if shape.guard is None else [shape.guard])]
    # Without a guard, or where it drops no row, a match can be however long ago.
    far = shape.guard is None or not shape.outer
    low = "NULL::TIMESTAMP" if far else f"{time} + {micros(min(ends))}"
    columns = {f"k{i}": str(k) for i, k in enumerate(keys)}
    columns |= {"t": time, "low": low, "high": f"{time} + {micros(max(ends) + 1)}"}
    same = [f"{k} IS NOT DISTINCT FROM c.k{i}" for i, k in enumerate(keys)]
    sides = ((shape.left.relation, shape.left.keys), (shape.right.relation, shape.right.keys))
    return Sample("rows", _chosen(plan, columns, n, seed), " AND ".join([*same, f"{time} = c.t"]), sides)


def _chosen(plan: ViewPlan, columns: dict[str, str], n: int, seed: int) -> str:
    final = " WHERE v.is_final" if plan.final_condition("rows") is not None else ""
    made = ", ".join(f"{sql} AS {name}" for name, sql in columns.items())
    return (
        f"SELECT * FROM (SELECT DISTINCT {made} FROM main.{quote(plan.name)} v{final}) AS w "
        f"ORDER BY hash(w, {int(seed)}) LIMIT {int(n)}"
    )
