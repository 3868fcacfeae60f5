"""Reads a view file: one SELECT of a shape that can be kept incrementally, or a refusal with advice."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from math import gcd
from pathlib import Path

import duckdb
import sqlglot
from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.errors import SqlglotError
from sqlglot.tokens import TokenType

from tallystream.errors import ViewError

RELATIONS = ("orders", "clicks")
MERGEABLE = {exp.Count: "count", exp.Sum: "sum", exp.Min: "min", exp.Max: "max", exp.Avg: "avg", exp.ArgMin: "arg_min", exp.ArgMax: "arg_max"}
WINDOW_COLUMNS = ("window_start", "window_end")
CLAUSES = {
    "with_": ("WITH", "write the query without a common table expression, or put it into an analyst query over the view"),
    "with": ("WITH", "write the query without a common table expression, or put it into an analyst query over the view"),
    "joins": ("JOIN", "keep one view for each topic and join them when you query"),
    "laterals": ("LATERAL", "keep the view plain and unnest when you query"),
    "having": ("HAVING", "keep all groups and filter when you query"),
    "qualify": ("QUALIFY", "keep all rows and rank when you query"),
    "windows": ("WINDOW", "keep all rows and rank when you query"),
    "order": ("ORDER BY", "rows of a view have no order; sort when you query"),
    "limit": ("LIMIT", "keep all rows and limit when you query"),
    "offset": ("OFFSET", "keep all rows and limit when you query"),
    "distinct": ("DISTINCT", "group by the columns instead"),
    "sample": ("SAMPLE", "a sample is another one each time"),
}


class ViewDialect(DuckDB):
    """DuckDB, where `session` is a name: sqlglot reads it as a keyword."""

    class Parser(DuckDB.Parser):
        """Knows `session(…)` as a function."""

        FUNC_TOKENS = DuckDB.Parser.FUNC_TOKENS | {TokenType.SESSION}


@dataclass(frozen=True)
class Window:
    """kind: tumble or hop; size and slide in microseconds."""

    kind: str
    size: int
    slide: int

    @property
    def pane(self) -> int:
        """The longest stretch that no window of this kind divides, microseconds."""
        return gcd(self.size, self.slide)


@dataclass(frozen=True)
class Aggregate:
    """One output aggregate: its name, kind, argument SQL and FILTER condition (SQL, or None)."""

    name: str
    kind: str
    args: tuple[str, ...]
    condition: str | None


@dataclass(frozen=True)
class Shape:
    """What a view file says. `outputs`: names in the file's order; `keys`: name -> expression SQL."""

    topic: str
    window: Window | None
    outputs: tuple[str, ...]
    keys: dict[str, str]
    aggregates: tuple[Aggregate, ...]
    where: str | None
    description: str
    canonical: str
    windowed_outputs: frozenset[str] = field(default_factory=frozenset)


class Refusal:
    """Makes ViewErrors that name the file and the line."""

    def __init__(self, path: Path, sql: str):
        self._name = path.name
        self._lines = sql.splitlines() or [""]

    def line(self, text: str) -> int:
        """The first line outside comments that has `text`; 1 when none has."""
        wanted = re.compile(rf"(?<!\w){re.escape(text.split('(')[0].strip())}(?!\w)", re.IGNORECASE)
        for number, line in enumerate(self._lines, 1):
            if wanted.search(line.split("--")[0]):
                return number
        return 1

    def __call__(self, construct: str, why: str, advice: str) -> ViewError:
        return ViewError(f"{self._name}:{self.line(construct)}: {construct}: {why}; {advice}")


def read(path: Path, sql: str) -> Shape:
    """The shape of a view file.

    Raises:
        ViewError: file, line, construct, and what to do.
    """
    refuse = Refusal(path, sql)
    select = _one_select(path, sql, refuse)
    _refuse_volatile(select, refuse)
    for arg, (name, advice) in CLAUSES.items():
        if select.args.get(arg):
            raise refuse(name, "cannot be kept incrementally", advice)
    _refuse_inside(select, refuse)
    topic, window = _source(select, refuse)
    outputs, keys, aggregates, windowed = _items(select, window, refuse)
    _check_group(select, keys, windowed, refuse)
    where = select.args.get("where")
    if where is not None and where.find(exp.AggFunc):
        raise refuse("WHERE", "holds an aggregate", "filter the events by their columns")
    for column in select.find_all(exp.Column):
        if column.name.lower() in WINDOW_COLUMNS and window is None:
            raise refuse(column.name, "there is no window here", "read FROM tumble(…) or hop(…)")
    description = "\n".join(line.lstrip("- ").rstrip() for line in sql.split("SELECT")[0].splitlines() if line.startswith("--"))
    return Shape(
        topic,
        window,
        outputs,
        keys,
        aggregates,
        None if where is None else _sql(where.this),
        description,
        select.sql(ViewDialect, comments=False, normalize=True),
        windowed,
    )


def _sql(node: exp.Expression) -> str:
    return node.sql(ViewDialect, comments=False)


def _one_select(path: Path, sql: str, refuse: Refusal) -> exp.Select:
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        at = re.search(r"LINE (\d+):", str(error))
        first = str(error).split("\n")[0]
        raise ViewError(f"{path.name}:{at[1] if at else 1}: {first}; it must be one SELECT that DuckDB can read") from None
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        found = "nothing" if not statements else f"{len(statements)} statements" if len(statements) > 1 else statements[0].type.name
        raise ViewError(f"{path.name}:1: {found}: a view is exactly one SELECT; put other statements elsewhere")
    try:
        parsed = sqlglot.parse_one(sql, dialect=ViewDialect)
    except SqlglotError as error:
        raise ViewError(f"{path.name}:1: {str(error).splitlines()[0]}; write the query in plain SELECT form") from None
    if isinstance(parsed, exp.SetOperation):
        raise refuse("UNION" if isinstance(parsed, exp.Union) else parsed.key.upper(), "cannot be kept incrementally", "make one view for each part")
    if not isinstance(parsed, exp.Select) or not parsed.args.get("from_", parsed.args.get("from")):
        raise ViewError(f"{path.name}:1: {parsed.key.upper()}: a view reads FROM a topic or a window over it")
    return parsed


def _refuse_volatile(select: exp.Select, refuse: Refusal) -> None:
    volatile = _functions("stability <> 'CONSISTENT'") | {"current_timestamp", "localtimestamp", "current_time", "localtime", "current_user", "getenv", "current_setting", "getvariable"}
    for name in _names(select):
        if name.lower() in volatile:
            raise refuse(name, "gives another answer each time it is asked", "use a column of the event, such as event_time")


@cache
def _functions(condition: str) -> frozenset[str]:
    with duckdb.connect() as con:
        rows = con.execute(f"SELECT DISTINCT lower(function_name) FROM duckdb_functions() WHERE {condition}").fetchall()
    return frozenset(row[0] for row in rows)


def _names(select: exp.Select) -> Iterator[str]:
    for node in select.find_all(exp.Func):
        yield node.name if isinstance(node, exp.Anonymous) else node.sql_name()
        yield node.key
    for column in select.find_all(exp.Column):
        yield column.name


def _refuse_inside(select: exp.Select, refuse: Refusal) -> None:
    if select.find(exp.Window):
        raise refuse("OVER", "window functions need all rows at once", "rank or accumulate when you query the view")
    inner = next((n for n in select.find_all(exp.Select) if n is not select), None)
    if inner is not None or select.find(exp.Subquery, exp.Exists):
        raise refuse("(SELECT" if inner is not None else "EXISTS", "a subquery cannot be kept incrementally", "make it a view of its own and join when you query")
    if select.find(exp.Parameter, exp.Placeholder):
        raise refuse("?", "a view has no parameters", "write the value")
    for table in select.find_all(exp.Star):
        if not isinstance(table.parent, exp.Count):
            raise refuse("*", "names no columns", "list the columns and aggregates")


def _source(select: exp.Select, refuse: Refusal) -> tuple[str, Window | None]:
    source = (select.args.get("from_") or select.args["from"]).this
    if not isinstance(source, exp.Table):
        raise refuse(_sql(source), "is no topic", "read FROM orders, clicks, tumble(…) or hop(…)")
    if source.args.get("joins"):
        raise refuse("JOIN", *(["cannot be kept incrementally", CLAUSES["joins"][1]]))
    call = source.this
    if isinstance(call, exp.Identifier):
        if source.args.get("db") or call.name.lower() not in RELATIONS:
            raise refuse(_sql(source), "is no topic", "the topics are orders and clicks")
        return call.name.lower(), None
    name = (call.name if isinstance(call, exp.Anonymous) else call.key).lower()
    args = call.expressions if isinstance(call, exp.Anonymous) else list(call.args.values())
    if name not in ("tumble", "hop"):
        advice = "use tumble(…) or hop(…)" if name == "session" else "read FROM orders, clicks, tumble(…) or hop(…)"
        raise refuse(name, "cannot be kept incrementally", advice)
    if len(args) != (2 if name == "tumble" else 3):
        raise refuse(name, "has another number of arguments", "tumble(topic, size) or hop(topic, slide, size)")
    topic = args[0].name.lower()
    if topic not in RELATIONS:
        raise refuse(args[0].name or _sql(args[0]), "is no topic", "the topics are orders and clicks")
    spans = [_microseconds(arg, refuse) for arg in args[1:]]
    return topic, Window(name, spans[-1], spans[0])


def _microseconds(arg: exp.Expression, refuse: Refusal) -> int:
    try:
        row = duckdb.connect().execute(f"SELECT epoch_us(i), datepart('month', i) + 12 * datepart('year', i) FROM (SELECT {_sql(arg)} AS i)").fetchone()
    except duckdb.Error:
        raise refuse("INTERVAL", f"{_sql(arg)} is no interval", "write INTERVAL 5 MINUTES") from None
    assert row is not None
    if row[1] or row[0] <= 0:
        raise refuse("INTERVAL", "months and years have no fixed length, and a window is longer than nothing", "use days, hours, minutes or seconds")
    return int(row[0])


def _items(
    select: exp.Select, window: Window | None, refuse: Refusal
) -> tuple[tuple[str, ...], dict[str, str], tuple[Aggregate, ...], frozenset[str]]:
    outputs: list[str] = []
    keys: dict[str, str] = {}
    aggregates: list[Aggregate] = []
    windowed = set()
    for item in select.expressions:
        name = item.alias_or_name
        body = item.this if isinstance(item, exp.Alias) else item
        if not name:
            raise refuse(_sql(body), "has no name", "give it one with AS")
        if name.lower() in {o.lower() for o in outputs} or name.lower() == "is_final" or name.startswith("_"):
            raise refuse(name, "the name is taken", "give each column a name of its own; is_final and names with a leading _ are ours")
        outputs.append(name)
        if window is not None and isinstance(body, exp.Column) and body.name.lower() in WINDOW_COLUMNS:
            if name.lower() != body.name.lower():
                raise refuse(name, "window columns keep their names", "leave the alias out")
            windowed.add(name.lower())
        elif body.find(exp.AggFunc, exp.Filter) or _is_aggregate(body):
            aggregates.append(_aggregate(name, body, refuse))
        else:
            if any(c.name.lower() in WINDOW_COLUMNS for c in body.find_all(exp.Column)) and window is not None:
                raise refuse(name, "an expression over the window's bounds", "select window_start itself and compute when you query")
            keys[name] = _sql(body)
    if not aggregates:
        raise refuse("SELECT", "there is no aggregate", "a view counts or sums; the events themselves are in the log")
    return tuple(outputs), keys, tuple(aggregates), frozenset(windowed)


def _is_aggregate(body: exp.Expression) -> bool:
    known = _functions("function_type = 'aggregate'")
    return any(isinstance(n, exp.Anonymous) and n.name.lower() in known for n in body.find_all(exp.Anonymous))


def _aggregate(name: str, body: exp.Expression, refuse: Refusal) -> Aggregate:
    condition = None
    if isinstance(body, exp.Filter):
        condition = _sql(body.expression.this)
        body = body.this
    kind = MERGEABLE.get(type(body))
    call = body.name if isinstance(body, exp.Anonymous) else body.sql_name() if isinstance(body, exp.Func) else _sql(body)
    if kind is None:
        inner = body.find(exp.AggFunc)
        if inner is not None and inner is not body:
            raise refuse(_sql(inner), "is inside an expression", "select the aggregates themselves and compute when you query")
        raise refuse(call.lower(), "cannot be merged from parts", "use count, sum, min, max, avg, arg_min or arg_max")
    if body.find(exp.Distinct):
        raise refuse("DISTINCT", f"{kind}(DISTINCT …) needs the members of each group", "count rows, or group by the column and count when you query")
    if body.find(exp.Order):
        raise refuse("ORDER BY", "an order inside an aggregate", "use arg_min or arg_max")
    args = [arg for arg in (body.args.get("this"), body.args.get("expression")) if arg is not None]
    rest = body.expressions if not isinstance(body, exp.Count) else []
    if rest or (kind.startswith("arg_") and len(args) != 2) or body.args.get("count"):
        raise refuse(kind, "has another number of arguments", f"{kind}(value, by)" if kind.startswith("arg_") else f"{kind}(value)")
    if any(a.find(exp.AggFunc) for a in args):
        raise refuse(kind, "an aggregate inside an aggregate", "make it a view of its own")
    if any(c.name.lower() in WINDOW_COLUMNS for a in args for c in a.find_all(exp.Column)):
        raise refuse(name, "an aggregate over the window's bounds", "compute it when you query")
    return Aggregate(name, kind, tuple("*" if isinstance(a, exp.Star) else _sql(a) for a in args), condition)


def _check_group(select: exp.Select, keys: dict[str, str], windowed: frozenset[str], refuse: Refusal) -> None:
    group = select.args.get("group")
    wanted = {k.lower() for k in keys} | {e.lower() for e in keys.values()} | set(windowed)
    if group is None:
        if keys or windowed:
            raise refuse(next(iter([*windowed, *keys])), "is neither grouped nor aggregated", "add GROUP BY ALL")
        return
    if group.args.get("all"):
        return
    if any(group.args.get(kind) for kind in ("cube", "rollup", "grouping_sets")):
        raise refuse("GROUP BY", "several groupings at once", "make a view for each")
    listed = [_sql(e) for e in group.expressions]
    items = select.expressions
    listed = [_sql(items[int(e) - 1].unalias()) if e.isdecimal() and 0 < int(e) <= len(items) else e for e in listed]
    for e in listed:
        if e.lower() not in wanted:
            raise refuse(e, "is grouped by but not selected", "select it, so that each row has its key")
    covered = {e.lower() for e in listed}
    for name, sql in keys.items():
        if name.lower() not in covered and sql.lower() not in covered:
            raise refuse(name, "is neither grouped nor aggregated", "use GROUP BY ALL")
    if "window_start" not in covered and "window_end" not in covered and windowed:
        raise refuse("window_start", "is neither grouped nor aggregated", "use GROUP BY ALL")
