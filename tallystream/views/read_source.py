"""Reads FROM: a relation, or a window over one."""

from __future__ import annotations

import duckdb
from sqlglot import exp

from tallystream.views.dialect import to_sql
from tallystream.views.refuse import Refusal
from tallystream.views.relation import Relation
from tallystream.views.relations import relations
from tallystream.views.shape import Window

USES = {
    "tumble": "tumble(relation, size)",
    "hop": "hop(relation, slide, size)",
    "session": "session(relation, key, gap)",
}


def read_source(select: exp.Select, refuse: Refusal) -> tuple[Relation, Window | None, exp.Expr | None]:
    """The relation, the window over it, and a session's key."""
    source = select.args["from_"].this
    known = ", ".join(relations())
    if not isinstance(source, exp.Table):
        raise refuse(to_sql(source), "is no relation", f"read FROM {known}, or a window over one of them")
    if source.args.get("sample"):
        raise refuse("SAMPLE", "cannot be kept incrementally", "a sample is another one each time")
    refuse_column_aliases(source, refuse)
    call = source.this
    if isinstance(call, exp.Identifier):
        if source.args.get("db") or call.name.lower() not in relations():
            raise refuse(to_sql(source.this), "is no relation", f"read FROM {known}, or a window over one of them")
        return relations()[call.name.lower()], None, None
    name = (call.name if isinstance(call, exp.Anonymous) else call.sql_name()).lower()
    args = list(call.expressions if isinstance(call, exp.Anonymous) else call.args.values())
    if name not in USES:
        raise refuse(name, "is no window", f"read FROM {known}, {', '.join(USES.values())}")
    shift = 0
    if args and isinstance(args[-1], exp.PropertyEQ) and name != "session":
        if args[-1].this.name.lower() != "shift":
            raise refuse(args[-1].this.name, "is no argument of a window", "write shift := INTERVAL …")
        shift = _microseconds(args.pop().expression, refuse, may_be_negative=True)
    if len(args) != (2 if name == "tumble" else 3):
        raise refuse(
            name,
            "has another number of arguments",
            USES[name] + ("" if name == "session" else ", and shift := INTERVAL … after them"),
        )
    relation = args[0].name.lower()
    if isinstance(args[0], exp.Literal):
        raise refuse(name, f"{to_sql(args[0])} is a text", f"write the relation's name without quotes: {USES[name]}")
    if relation not in relations() or not isinstance(args[0], exp.Column):
        raise refuse(args[0].name or to_sql(args[0]), "is no relation", f"the relations are {known}")
    if name == "session":
        gap = _microseconds(args[2], refuse)
        return relations()[relation], Window(name, gap, gap), args[1]
    spans = [_microseconds(arg, refuse) for arg in args[1:]]
    return relations()[relation], Window(name, spans[-1], spans[0], shift % spans[0]), None


def refuse_column_aliases(table: exp.Expr, refuse: Refusal) -> None:
    """`clicks AS c(event_type, …)` gives columns the names of others.

    Raises:
        ViewError: it does.
    """
    alias = table.args.get("alias")
    if alias is not None and alias.columns:
        raise refuse(alias.columns[0].name, "is a new name for a column", "use the names that the relation has")


def _microseconds(arg: exp.Expr, refuse: Refusal, may_be_negative: bool = False) -> int:
    try:
        row = duckdb.execute(
            f"SELECT epoch_us(i), datepart('month', i) + 12 * datepart('year', i) FROM (SELECT CAST({to_sql(arg)} AS INTERVAL) AS i)"
        ).fetchone()
    except duckdb.Error:
        raise refuse("INTERVAL", f"{to_sql(arg)} is no interval", "write INTERVAL 5 MINUTES") from None
    if row is None or row[0] is None:
        raise refuse("INTERVAL", f"{to_sql(arg)} is no interval", "write INTERVAL 5 MINUTES")
    if row[1] or (row[0] <= 0 and not may_be_negative):
        raise refuse(
            "INTERVAL",
            "months and years have no fixed length, and a window is longer than nothing",
            "use days, hours, minutes or seconds",
        )
    return int(row[0])
