"""Reads aggregate calls: which can be merged from parts, and what to use for those that cannot."""

from __future__ import annotations

from sqlglot import exp

from tallystream.views.aggregates import Aggregate
from tallystream.views.dialect import functions, safe_sql, to_sql
from tallystream.views.refuse import Refusal

MERGEABLE: dict[type[exp.Expr], str] = {
    exp.Count: "count",
    exp.CountIf: "count_if",
    exp.Sum: "sum",
    exp.Min: "min",
    exp.Max: "max",
    exp.Avg: "avg",
    exp.ArgMin: "arg_min",
    exp.ArgMax: "arg_max",
    exp.LogicalOr: "bool_or",
    exp.LogicalAnd: "bool_and",
    exp.ApproxDistinct: "approx_count_distinct",
    exp.ApproxQuantile: "approx_quantile",
}
KEPT = "count, count(DISTINCT …), sum, min, max, avg, arg_min, arg_max, bool_or, bool_and, approx_count_distinct, approx_quantile"
NEAREST = {
    "median": "use approx_quantile(value, 0.5), which is within 1 %",
    "quantile": "use approx_quantile(value, q), which is within 1 %",
    "percentilecont": "use approx_quantile(value, q), which is within 1 %",
    "first": "use arg_min(value, event_time)",
    "last": "use arg_max(value, event_time)",
    "anyvalue": "use min(value) or arg_min(value, event_time)",
    "mode": "group by the column, count, and take the greatest count when you query",
}


def is_aggregate(node: exp.Expr) -> bool:
    """Whether it is an aggregate call, with its FILTER if it has one."""
    if isinstance(node, exp.Filter | exp.AggFunc | exp.WithinGroup):
        return True
    return isinstance(node, exp.Anonymous) and node.name.lower() in functions("function_type = 'aggregate'")


def read_aggregate(body: exp.Expr, refuse: Refusal) -> Aggregate:
    """The aggregate that a call says.

    Raises:
        ViewError: it cannot be merged from parts.
    """
    condition = None
    if isinstance(body, exp.Filter):
        condition = safe_sql(body.expression.this)
        body = body.this
    kind = MERGEABLE.get(type(body))
    if kind is None:
        call = (
            body.name
            if isinstance(body, exp.Anonymous)
            else body.sql_name()
            if isinstance(body, exp.Func)
            else to_sql(body)
        )
        if isinstance(body, exp.WithinGroup):
            call = body.this.sql_name()
        raise refuse(
            call.lower(), "cannot be merged from parts", NEAREST.get(call.lower().replace("_", ""), f"use {KEPT}")
        )
    if body.find(exp.Order):
        raise refuse("ORDER BY", "an order inside an aggregate", "use arg_min or arg_max")
    if any(is_aggregate(n) for n in body.walk() if n is not body):
        raise refuse(kind, "an aggregate inside an aggregate", "make it a view of its own")
    return _checked(kind, body, condition, refuse)


def _checked(kind: str, body: exp.Expr, condition: str | None, refuse: Refusal) -> Aggregate:
    first: exp.Expr = body.args.get("this", exp.null())
    if isinstance(first, exp.Distinct):
        members = first.expressions
        if kind in ("min", "max"):
            return Aggregate(kind, (safe_sql(members[0]),), condition)
        if kind != "count":
            raise refuse(
                "DISTINCT",
                f"{kind}(DISTINCT …) has no exact sum of parts",
                "use count(DISTINCT …), or group by the column",
            )
        if len(members) != 1:
            raise refuse(
                "DISTINCT",
                "count(DISTINCT …) of several columns",
                "make one value of them: count(DISTINCT a || '/' || b)",
            )
        return Aggregate("distinct", (safe_sql(members[0]),), condition)
    if kind == "approx_quantile":
        q = body.args.get("quantile")
        if not (isinstance(q, exp.Literal) and q.is_number and 0 <= float(q.name) <= 1):
            raise refuse("approx_quantile", "needs a plain number between 0 and 1", "write approx_quantile(value, 0.5)")
        return Aggregate(kind, (safe_sql(first), q.name), condition)
    args = [arg for arg in (body.args.get("this"), body.args.get("expression")) if arg is not None]
    extra = body.expressions or body.args.get("count")
    wanted = 2 if kind.startswith("arg_") else 1
    if (len(args) != wanted and not (kind == "count" and not args)) or extra:
        raise refuse(kind, "has another number of arguments", f"{kind}(value, by)" if wanted == 2 else f"{kind}(value)")
    told = tuple("*" if isinstance(a, exp.Star) else safe_sql(a) for a in args) or ("*",)
    if kind == "count_if":
        return Aggregate("count", ("*",), told[0] if condition is None else f"({condition}) AND ({told[0]})")
    return Aggregate(kind, told, condition)
