"""Reads attributions: `left ASOF [LEFT] JOIN right`, each left row with the right row nearest in time."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import duckdb
from sqlglot import exp

from tallystream.views.dialect import safe_sql, to_sql
from tallystream.views.names import quote
from tallystream.views.read_aggregates import is_aggregate
from tallystream.views.read_grouped import check_name
from tallystream.views.read_source import refuse_column_aliases
from tallystream.views.refuse import Refusal
from tallystream.views.relation import Relation
from tallystream.views.relations import relations
from tallystream.views.shape import WINDOW_COLUMNS, Attribution, Output, Side

KEEP = "keep one view for each topic and join them when you query"
FORM = "write left ASOF LEFT JOIN right ON left.key = right.key AND left.event_time >= right.event_time"
TURNED: dict[type[exp.Expr], type[exp.Expr]] = {exp.GTE: exp.LTE, exp.LTE: exp.GTE, exp.GT: exp.LT, exp.LT: exp.GT}


@dataclass
class _Named:
    """A relation under the name the file gives it, and the columns it must keep."""

    name: str
    relation: Relation
    columns: list[str] = field(default_factory=list)

    def keep(self, column: str) -> int:
        """The number of a column, kept from now on."""
        if column not in self.columns:
            self.columns.append(column)
        return self.columns.index(column)


def read_join(select: exp.Select, refuse: Refusal, description: str, canonical: str) -> Attribution:
    """See `read`."""
    join, left, right = _sides(select, refuse)
    _qualify(select, left, right, refuse)
    for arg, name in (("group", "GROUP BY"), ("having", "HAVING")):
        if select.args.get(arg):
            raise refuse(name, "groups the rows of a join", "keep one row an event, and group when you query the view")
    if any(is_aggregate(n) for e in select.expressions for n in e.walk()):
        raise refuse(
            "SELECT", "an aggregate over a join", "keep one row an event, and aggregate when you query the view"
        )
    keys, filters, backward, strict, bound = _condition(join, left, right, refuse)
    where = select.args.get("where")
    if where is not None and any(c.table == right.name for c in where.find_all(exp.Column)):
        raise refuse(
            "WHERE",
            f"filters by {right.name}, which an event to come may still change",
            "filter by it when you query the view",
        )
    bodies = _bodies(select, refuse)
    guard = _guard(bodies, left, right, backward)
    if not backward and guard is None:
        raise refuse(
            "ASOF", "the first event after a time, however late, is never final",
            f"guard each column of {right.name}: CASE WHEN {right.name}.event_time <= {left.name}.event_time THEN … END",
        )  # fmt: skip
    outputs = tuple(Output(name, _over_state(body, left, right)) for name, body in bodies.items())
    sides = (
        Side(
            left.relation, tuple(k for k, _ in keys), tuple(left.columns), None if where is None else _bare(where.this)
        ),
        Side(right.relation, tuple(k for _, k in keys), tuple(right.columns), " AND ".join(filters) or None),
    )
    batch = _batch_sql(select, join, left, right, sides[1], backward)
    outer = str(join.args.get("side") or "").upper() == "LEFT"
    return Attribution(*sides, backward, strict, bound, guard, outer, outputs, batch, description, canonical)


def _sides(select: exp.Select, refuse: Refusal) -> tuple[exp.Join, _Named, _Named]:
    joins = select.args["joins"]
    join = joins[0]
    if str(join.args.get("method") or "").upper() != "ASOF" or len(joins) > 1:
        raise refuse("JOIN", "cannot be kept incrementally", f"{KEEP}; for the event nearest in time: ASOF LEFT JOIN")
    if str(join.args.get("side") or "").upper() not in ("", "LEFT") or str(join.args.get("kind") or "").upper() not in (
        "",
        "INNER",
    ):
        raise refuse("ASOF", "only LEFT and inner joins can be kept", FORM)
    if join.args.get("using") or not join.args.get("on"):
        raise refuse("USING" if join.args.get("using") else "ASOF", "the condition must name both sides", FORM)
    found = []
    for table in (select.args["from_"].this, join.this):
        known = isinstance(table, exp.Table) and isinstance(table.this, exp.Identifier) and not table.args.get("db")
        if not known or table.name.lower() not in relations():
            what = to_sql(table.this if isinstance(table, exp.Table) else table)
            raise refuse(what, "is no relation", f"join two of {', '.join(relations())}")
        refuse_column_aliases(table, refuse)
        found.append(_Named(table.alias_or_name, relations()[table.name.lower()]))
    if found[0].name.lower() == found[1].name.lower():
        raise refuse(found[0].name, "both sides have one name", "give each an alias")
    return join, found[0], found[1]


def _qualify(select: exp.Select, left: _Named, right: _Named, refuse: Refusal) -> None:
    by_name = {side.name.lower(): side for side in (left, right)}
    for column in select.find_all(exp.Column):
        name = column.name.lower()
        if name in WINDOW_COLUMNS:
            raise refuse(name, "there is no window here", "group the rows by time when you query the view")
        if not column.table:
            owners = [s for s in (left, right) if name in s.relation.columns]
            if len(owners) != 1:
                why = "is in both relations" if owners else "is a column of neither relation"
                raise refuse(column.name, why, f"write {left.name}.{column.name} or {right.name}.{column.name}")
            column.set("table", exp.to_identifier(owners[0].name))
        elif column.table.lower() in by_name:
            column.set("table", exp.to_identifier(by_name[column.table.lower()].name))


def _bare(node: exp.Expr) -> str:
    """Over one relation alone: the columns without the relation's name."""

    def strip(n: exp.Expr) -> exp.Expr:
        return exp.column(n.this.copy()) if isinstance(n, exp.Column) else n

    return safe_sql(node.copy().transform(strip))


def _owners(node: exp.Expr) -> set[str]:
    return {c.table for c in node.find_all(exp.Column)}


def _condition(
    join: exp.Join, left: _Named, right: _Named, refuse: Refusal
) -> tuple[list[tuple[str, str]], list[str], bool, bool, int]:
    """(equal keys, conditions on the right alone, backward, strict, bound) of the ON clause."""
    keys: list[tuple[str, str]] = []
    filters: list[str] = []
    both = sorted([{left.name}, {right.name}], key=list)
    found = []
    part: exp.Expr
    for part in join.args["on"].flatten() if isinstance(join.args["on"], exp.And) else [join.args["on"]]:
        part = part.unnest()
        owners = _owners(part)
        if owners == {right.name}:
            filters.append(_bare(part))
        elif isinstance(part, exp.EQ) and sorted([_owners(part.this), _owners(part.expression)], key=list) == both:
            mine, theirs = part.this, part.expression
            if _owners(mine) == {right.name}:
                mine, theirs = theirs, mine
            keys.append((_bare(mine), _bare(theirs)))
        elif type(part) in TURNED and (told := _bound(part, left, right)) is not None:
            found.append(told)
        else:
            raise refuse(
                to_sql(part), "is no condition of an attribution", FORM + ", with or without an INTERVAL added"
            )
    if len(found) != 1 or not keys:
        raise refuse("ASOF", "needs equal keys and one comparison of the two event times", FORM)
    (backward, strict, bound) = found[0]
    return keys, filters, backward, strict, bound


def _bound(part: exp.Expr, left: _Named, right: _Named) -> tuple[bool, bool, int] | None:
    """`right time <= left time + bound`: (backward, strict, bound); None for another comparison."""
    one, other = _shifted(part.args["this"]), _shifted(part.args["expression"])
    if one is None or other is None:
        return None
    how: type[exp.Expr] = type(part)
    if one[0] == left.name:
        # left.event_time + … OP right.event_time + …: the same, read from the right
        one, other, how = other, one, TURNED[how]
    if (one[0], other[0]) != (right.name, left.name):
        return None
    return how in (exp.LTE, exp.LT), how in (exp.LT, exp.GT), other[1] - one[1]


def _shifted(node: exp.Expr) -> tuple[str, int] | None:
    """(side, microseconds) of `side.event_time + INTERVAL …`."""
    node = node.unnest()
    if isinstance(node, exp.Column):
        return (node.table, 0) if node.name.lower() == "event_time" else None
    if not isinstance(node, exp.Add | exp.Sub) or node.expression.find(exp.Column):
        return None
    inner = _shifted(node.this)
    try:
        query = f"SELECT epoch_us(i), datepart('month', i) + 12 * datepart('year', i) FROM (SELECT {to_sql(node.expression)} AS i)"
        found = duckdb.execute(query).fetchone()
    except duckdb.Error:
        return None
    if inner is None or found is None or found[1]:
        return None
    return inner[0], inner[1] + (found[0] if isinstance(node, exp.Add) else -found[0])


def _bodies(select: exp.Select, refuse: Refusal) -> dict[str, exp.Expr]:
    bodies: dict[str, exp.Expr] = {}
    for item in select.expressions:
        if not item.alias_or_name:
            raise refuse(to_sql(item), "has no name", "give it one with AS")
        check_name(item.alias_or_name, bodies, refuse)
        bodies[item.alias_or_name] = item.unalias()
    return bodies


def _guard(bodies: dict[str, exp.Expr], left: _Named, right: _Named, backward: bool) -> int | None:
    """How far from the left row a right row may be before every output takes it for none; None: any distance."""
    found = set()
    for body in bodies.values():
        body = body.unnest()
        if right.name not in _owners(body):
            continue
        whens = (
            body.args["ifs"] if isinstance(body, exp.Case) and not body.this and not body.args.get("default") else []
        )
        if len(whens) != 1:
            return None
        test = whens[0].this
        tests = [t.unnest() for t in (test.flatten() if isinstance(test, exp.And) else [test])]
        bounds = [_bound(t, left, right) for t in tests if type(t) in TURNED]
        # A backward join is guarded from below, a forward one from above.
        told = [b[2] for b in bounds if b is not None and b[0] is not backward]
        if not told:
            return None
        found.add(min(told) if backward else max(told))
    return None if not found else min(found) if backward else max(found)


def _over_state(body: exp.Expr, left: _Named, right: _Named) -> str:
    """The output over l0… and r.c0…, the times among them."""

    def stored(n: exp.Expr) -> exp.Expr:
        if not isinstance(n, exp.Column):
            return n
        if n.table == right.name:
            of_all = {"event_time": "t", "event_id": "id"}.get(n.name.lower())
            return exp.column(of_all or f"c{right.keep(n.name.lower())}", table="r")
        return exp.column(f"l{left.keep(n.name.lower())}", table="rows")

    return safe_sql(body.copy().transform(stored))


def _compared(part: exp.Expr) -> str:
    """A comparison of ON with both its sides safe; DuckDB wants it bare for a join ASOF."""
    bare = part.copy()
    bare.set("this", exp.column("__one__"))
    bare.set("expression", exp.column("__other__"))
    sides = {"__one__": part.args["this"], "__other__": part.args["expression"]}
    return re.sub(r"__one__|__other__", lambda m: safe_sql(sides[m[0]]), to_sql(bare))


def _batch_sql(select: exp.Select, join: exp.Join, left: _Named, right: _Named, side: Side, backward: bool) -> str:
    """The file's query over right rows of which no two have the same keys and time: ties go by event_id.

    And then by the columns that outputs use: several rows of one event, such as the items of an order.
    """
    order = "DESC" if backward else "ASC"
    by = ", ".join([*side.keys, "event_time"])
    # NULL is the greatest part of a struct.
    nulls = "FIRST" if backward else "LAST"
    ties = ", ".join(f"{quote(c)} {order} NULLS {nulls}" for c in ("event_id", *side.columns))
    where = f" WHERE {side.where}" if side.where else ""
    one = (
        f"SELECT * FROM {right.relation.name}{where} QUALIFY row_number() OVER (PARTITION BY {by} ORDER BY {ties}) = 1"
    )
    items = ", ".join(f"{safe_sql(e.unalias())} AS {quote(e.alias_or_name)}" for e in select.expressions)
    filtered = select.args.get("where")
    kept = f" WHERE {safe_sql(filtered.this)}" if filtered is not None else ""
    on = [_compared(p.unnest()) for p in join.args["on"].flatten() if _owners(p.unnest()) != {right.name}]
    how = "ASOF LEFT JOIN" if join.args.get("side") else "ASOF JOIN"
    ctes = ", ".join(sorted({r.cte for r in (left.relation, right.relation) if r.cte}))
    return (
        f"{f'WITH {ctes} ' if ctes else ''}SELECT {items} FROM {left.relation.name} AS {quote(left.name)} "
        f"{how} ({one}) AS {quote(right.name)} ON {' AND '.join(on)}{kept}"
    )
