"""The SQL of groups: their partial over a batch, the file's query over all events, and outputs written out."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tallystream.views.aggregates import Aggregate, Part, batch_of, parts_of
from tallystream.views.names import ORIGIN, micros, quote
from tallystream.views.shape import Grouped

# A text or a quoted name, in which nothing is written out, or one of our names.
NAMED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\bwindow_end\b|\b__([ak])(\d+)__""")


def fill(template: str, aggregates: Sequence[str], keys: Sequence[str], end: str) -> str:
    """An output's SQL with its aggregates, keys and the window's end written out."""

    def written(found: re.Match[str]) -> str:
        if found[0] == "window_end":
            return end
        if found[1] is None:
            return found[0]
        return (aggregates if found[1] == "a" else keys)[int(found[2])]

    return NAMED.sub(written, template)


def parts_in(aggregates: Sequence[Aggregate], in_row: bool) -> list[Part]:
    """The mergeable columns of a row."""
    kept = [(i, a) for i, a in enumerate(aggregates) if in_row or a.kind != "distinct"]
    return [part for i, a in kept for part in parts_of(i, a)]


def partial_sql(shape: Grouped, in_row: bool, source: str) -> str:
    """A hop is aggregated by pane first, and only the panes are spread over their windows."""
    parts = parts_in(shape.aggregates, in_row)
    if not in_row:
        sets = [(i, parts_of(i, a)[0]) for i, a in enumerate(shape.aggregates) if a.kind == "distinct"]
        parts += [
            Part(f"a{i}m", p.partial, p.combine.replace(f"a{i}", f"a{i}m"), "", p.settle.replace(f"a{i}", f"a{i}m"))
            for i, p in sets
        ]
    where = f" WHERE {shape.where}" if shape.where else ""
    keys = [f"{sql} AS k{i}" for i, sql in enumerate(shape.keys)]
    made = [f"{p.partial} AS {p.name}" for p in parts]
    w = shape.window
    if w is None:
        group = f" GROUP BY {', '.join(str(i + 1) for i in range(len(keys)))}" if keys else " HAVING count(*) > 0"
        return f"SELECT {', '.join([*keys, *made])} FROM {source}{where}{group}"
    origin = ORIGIN + (f" + {micros(w.shift)}" if w.shift else "")
    group = f" GROUP BY {', '.join(str(i + 1) for i in range(len(keys) + 1))}"
    start = f"time_bucket({micros(w.pane)}, event_time, {origin}) AS window_start"
    panes = f"SELECT {', '.join([start, *keys, *made])} FROM {source}{where}{group}"
    if w.kind == "tumble":
        return panes
    first = f"time_bucket({micros(w.slide)}, window_start - {micros(w.size)}, {origin}) + {micros(w.slide)}"
    spread = f"unnest(generate_series({first}, window_start, {micros(w.slide)})) AS window_start"
    names = ["window_start", *(f"k{i}" for i in range(len(keys)))]
    combined = ", ".join([*names, *(f"{p.combine} AS {p.name}" for p in parts)])
    settled = ", ".join([*names, *(f"{p.settled} AS {p.name}" for p in parts)])
    spreaded = f"SELECT * EXCLUDE (window_start), {spread} FROM ({panes})"
    return f"SELECT {settled} FROM (SELECT {combined} FROM ({spreaded}) GROUP BY {', '.join(names)})"


def batch_sql(shape: Grouped) -> str:
    """See `ViewPlan.batch_sql`."""
    w, relation = shape.window, shape.relation
    pairs = [batch_of(i, a) for i, a in enumerate(shape.aggregates)]
    keys = [f"({sql}) AS k{i}" for i, sql in enumerate(shape.keys)]
    bounds = ["window_start", "window_end"] if w else []
    inner = [*bounds, *keys, *(f"{made} AS b{i}" for i, (made, _) in enumerate(pairs))]
    source = relation.name
    if w is not None:
        args = {"tumble": [micros(w.size)], "hop": [micros(w.slide), micros(w.size)]}.get(w.kind)
        args = (
            [str(shape.session_key), micros(w.size)]
            if args is None
            else args + [f"shift := {micros(w.shift)}"] * bool(w.shift)
        )
        source = f"{w.kind}({relation.name}, {', '.join(args)})"
    where = f" WHERE {shape.where}" if shape.where else ""
    # A window is a group even when the file selects one of its bounds.
    groups = [*bounds, *(f"({sql})" for sql in shape.keys)]
    group = f" GROUP BY {', '.join(groups)}" if groups else ""
    names = [f"k{i}" for i in range(len(keys))]
    finals = [f"f{i}" for i in range(len(pairs))]
    # A layer of their own: TRY takes no subquery, and that of a quantile is one.
    layer = ", ".join(["*", *(f"({s}) AS f{i}" for i, (_, s) in enumerate(pairs))])
    outputs = ", ".join(f"{fill(o.sql, finals, names, 'window_end')} AS {quote(o.name)}" for o in shape.outputs)
    having = f" WHERE {fill(shape.having, finals, names, 'window_end')}" if shape.having else ""
    cte = f"WITH {relation.cte} " if relation.cte else ""
    grouped = f"SELECT {', '.join(inner)} FROM {source}{where}{group}"
    return f"{cte}SELECT {outputs} FROM (SELECT {layer} FROM ({grouped})){having}"
