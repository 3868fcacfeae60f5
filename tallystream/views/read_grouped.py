"""Reads views of one relation: windows, keys, aggregates, and expressions over them."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlglot import exp

from tallystream.views.aggregates import Aggregate
from tallystream.views.dialect import safe_sql, to_sql
from tallystream.views.read_aggregates import is_aggregate, read_aggregate
from tallystream.views.read_source import read_source
from tallystream.views.refuse import Refusal
from tallystream.views.relation import Relation
from tallystream.views.shape import WINDOW_COLUMNS, Grouped, Output, Window


@dataclass
class _Reader:
    """Collects the aggregates and keys of one file."""

    refuse: Refusal
    relation: Relation
    window: Window | None
    aggregates: list[Aggregate] = field(default_factory=list)
    keys: list[exp.Expr] = field(default_factory=list)

    def template(self, node: exp.Expr) -> exp.Expr:
        """The expression with its aggregates and keys named: __a0__, __k0__."""

        def name(n: exp.Expr) -> exp.Expr:
            if is_aggregate(n):
                made = read_aggregate(n, self.refuse)
                if made not in self.aggregates:
                    self.aggregates.append(made)
                return exp.column(f"__a{self.aggregates.index(made)}__")
            if n in self.keys:
                return exp.column(f"__k{self.keys.index(n)}__")
            return n

        return node.copy().transform(name)

    def free(self, template: exp.Expr) -> str | None:
        """A column that is neither grouped nor aggregated."""
        for column in template.find_all(exp.Column):
            known = column.name.startswith("__") or (self.window and column.name.lower() in WINDOW_COLUMNS)
            if not known:
                return column.name
        return None


def read_grouped(select: exp.Select, refuse: Refusal, description: str, canonical: str) -> Grouped:
    """See `read`."""
    relation, window, session_key = read_source(select, refuse)
    _unqualify(select, relation)
    reader = _Reader(refuse, relation, window)
    items = _items(select, reader)
    _find_keys(select, items, reader)
    outputs = []
    for name, body in items.items():
        template = reader.template(body)
        free = reader.free(template)
        if free is not None:
            raise refuse(free, "is neither grouped nor aggregated", "use GROUP BY ALL")
        outputs.append(Output(name, safe_sql(template)))
    having = select.args.get("having")
    if having is not None:
        _refuse_shadows(having, items, reader)
    kept = None if having is None else reader.template(_expand(having.this, items, relation))
    if kept is not None and (free := reader.free(kept)) is not None:
        raise refuse(free, "is in HAVING, but neither grouped nor aggregated", "filter the events in WHERE")
    if not reader.aggregates:
        raise refuse("SELECT", "there is no aggregate", "a view counts or sums; the events themselves are in the log")
    where = select.args.get("where")
    if where is not None and any(is_aggregate(n) for n in where.walk()):
        raise refuse("WHERE", "holds an aggregate", "filter groups by HAVING, and events by their columns in WHERE")
    inside = [where] if where is not None else []
    _check_window_columns(select, inside, window, items, refuse)
    if session_key is not None and session_key not in reader.keys:
        raise refuse(
            to_sql(session_key), "is the session's key and not selected", "select it, so that each row has its key"
        )
    return Grouped(
        relation,
        window,
        tuple(outputs),
        tuple(safe_sql(k) for k in reader.keys),
        tuple(reader.aggregates),
        None if where is None else safe_sql(where.this),
        None if kept is None else safe_sql(kept),
        None if session_key is None else safe_sql(session_key),
        description,
        canonical,
    )


def _unqualify(select: exp.Select, relation: Relation) -> None:
    source = select.args["from_"].this
    names = {relation.name, source.alias_or_name.lower()}
    for column in select.find_all(exp.Column):
        if column.table.lower() in names and column.table:
            column.set("table", None)


def _items(select: exp.Select, reader: _Reader) -> dict[str, exp.Expr]:
    items: dict[str, exp.Expr] = {}
    for item in select.expressions:
        name = item.alias_or_name
        body = item.unalias()
        if not name:
            raise reader.refuse(to_sql(body), "has no name", "give it one with AS")
        check_name(name, items, reader.refuse)
        is_bound = isinstance(body, exp.Column) and body.name.lower() in WINDOW_COLUMNS
        if reader.window and is_bound and name.lower() != body.name.lower():
            raise reader.refuse(name, "window columns keep their names", "leave the alias out")
        items[name] = _expand(body, items, reader.relation)
    return items


def check_name(name: str, taken: dict[str, exp.Expr], refuse: Refusal) -> None:
    """Each column has a name of its own.

    Raises:
        ViewError: it is taken.
    """
    if name.lower() in {n.lower() for n in taken} or name.lower() == "is_final" or name.startswith("_"):
        raise refuse(
            name,
            "the name is taken",
            "give each column a name of its own; is_final and names with a leading _ are ours",
        )


def _expand(body: exp.Expr, items: dict[str, exp.Expr], relation: Relation) -> exp.Expr:
    """With the names of earlier columns written out, as DuckDB reads them."""
    named = {name.lower(): item for name, item in items.items()}

    def written(n: exp.Expr) -> exp.Expr:
        if isinstance(n, exp.Column) and not n.table and n.name not in relation.columns and n.name.lower() in named:
            found = named[n.name.lower()]
            return found.copy() if isinstance(found, exp.Column) else exp.paren(found.copy())
        return n

    return body.copy().transform(written)


def _refuse_shadows(having: exp.Expr, items: dict[str, exp.Expr], reader: _Reader) -> None:
    """In HAVING, DuckDB takes an output's name before a column's, but not inside of an aggregate."""
    for column in having.find_all(exp.Column):
        body = next((b for name, b in items.items() if name.lower() == column.name), None)
        if body is not None and column.name in reader.relation.columns and body != column:
            raise reader.refuse(
                column.name,
                "is a column of the events and the name of an output",
                "give the output another name, and write that in HAVING",
            )


def _find_keys(select: exp.Select, items: dict[str, exp.Expr], reader: _Reader) -> None:
    group = select.args.get("group")
    bodies = list(items.values())
    plain = [b for b in bodies if not any(is_aggregate(n) for n in b.walk()) and not _of_bounds(b, reader.window)]
    if group is None:
        if plain or any(_of_bounds(b, reader.window) for b in bodies):
            name = next(n for n, b in items.items() if not any(is_aggregate(x) for x in b.walk()))
            raise reader.refuse(name, "is neither grouped nor aggregated", "add GROUP BY ALL")
        return
    if group.args.get("all"):
        reader.keys += [b for i, b in enumerate(plain) if b not in plain[:i]]
        return
    if any(group.args.get(kind) for kind in ("cube", "rollup", "grouping_sets")) or group.find(exp.Rollup, exp.Cube):
        raise reader.refuse("GROUP BY", "several groupings at once", "make a view for each")
    for listed in group.expressions:
        if listed.is_int and 0 < int(listed.name) <= len(bodies):
            body = bodies[int(listed.name) - 1]
        else:
            body = _expand(listed, items, reader.relation).unnest()
        if _of_bounds(body, reader.window):
            continue
        if body not in plain:
            raise reader.refuse(
                to_sql(body), "is grouped by but not selected", "select it, so that each row has its key"
            )
        if body not in reader.keys:
            reader.keys.append(body)
    bounds = [b.name.lower() for b in group.expressions if isinstance(b, exp.Column)]
    listed_bounds = set(bounds) & set(WINDOW_COLUMNS) or any(
        e.is_int and _of_bounds(bodies[int(e.name) - 1], reader.window) for e in group.expressions if e.is_int
    )
    if reader.window and not listed_bounds:
        raise reader.refuse("GROUP BY", "leaves the window out", "use GROUP BY ALL")


def _of_bounds(body: exp.Expr, window: Window | None) -> bool:
    """Whether it is an expression over the window's bounds alone."""
    columns = [c.name.lower() for c in body.find_all(exp.Column)]
    return window is not None and bool(columns) and set(columns) <= set(WINDOW_COLUMNS)


def _check_window_columns(
    select: exp.Select,
    inside: list[exp.Expr],
    window: Window | None,
    items: dict[str, exp.Expr],
    refuse: Refusal,
) -> None:
    bounds = [c for c in select.find_all(exp.Column) if c.name.lower() in WINDOW_COLUMNS]
    if bounds and window is None:
        raise refuse(bounds[0].name, "there is no window here", "read FROM tumble(…), hop(…) or session(…)")
    if window is None:
        return
    for node in [*inside, *(n for b in items.values() for n in b.walk() if is_aggregate(n))]:
        if any(c.name.lower() in WINDOW_COLUMNS for c in node.find_all(exp.Column)):
            raise refuse(
                "window_start", "is inside an aggregate or WHERE", "use event_time there, or compute it when you query"
            )
    for name, body in items.items():
        columns = {c.name.lower() for c in body.find_all(exp.Column)}
        mixed = columns & set(WINDOW_COLUMNS) and columns - set(WINDOW_COLUMNS)
        if mixed and not any(is_aggregate(n) for n in body.walk()):
            raise refuse(
                name,
                "an expression over the window's bounds and the event",
                "select window_start itself and compute when you query",
            )
    if not any(isinstance(b, exp.Column) and b.name.lower() in WINDOW_COLUMNS for b in items.values()):
        raise refuse(
            "SELECT", "leaves the window out", "select window_start or window_end: each window is a row of its own"
        )
