"""Loads the folder of view files into plans; each is bound by DuckDB before anything trusts it."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import duckdb

from tallystream.errors import ViewError
from tallystream.settings import PROJECT
from tallystream.views.names import quote
from tallystream.views.plan import DELTA, ViewPlan
from tallystream.views.read import read
from tallystream.views.relation import TOPIC_COLUMNS
from tallystream.views.relations import (
    MACROS,
    create_relations,
    describe,
    install_macros,
    relations,
    scratch,
)
from tallystream.views.shape import Attribution, Grouped
from tallystream.views.shapes import attribution, grouped_sql, session
from tallystream.views.shapes.attribution import AttributionPlan
from tallystream.views.shapes.grouped import GroupedPlan
from tallystream.views.shapes.session import SessionPlan

__all__ = ["MACROS", "RELATIONS", "VIEWS", "create_relations", "install_macros", "load_view", "load_views"]

VIEWS = PROJECT / "sql" / "views"
RELATIONS = TOPIC_COLUMNS
NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
TAKEN = {"late_events", "dead_letters", "tallystream_schema", "tumble", "hop", "session", "provenance"}
FLOATS = ("FLOAT", "DOUBLE")
WIDE = re.compile(r"HUGEINT|DECIMAL\(38,\d+\)|DOUBLE")
UNNAMED = re.compile(r"STRUCT\((?!\")[^ ]+[,)]")
# Ten thousand million events of so many digits fit into a DECIMAL of 38.
DIGITS = 28
# One file after the other: a writer compacts, redrives and promotes in several threads, and all share the database in which
# plans are tried out. Two transactions that make the same tables conflict.
LOADING = threading.Lock()


def load_views(folder: Path | None = None) -> dict[str, ViewPlan]:
    """All view files of a folder, by name.

    Raises:
        ViewError: one of them cannot be kept; the message names file, line and construct. Or there is none: a wrong
            folder would drop every view that is kept.
    """
    folder = folder or VIEWS
    found = sorted(folder.glob("*.sql"))
    if not found:
        raise ViewError(f"{folder} holds no view files (NAME.sql); nothing was changed: say the folder that has them")
    return {path.stem: load_view(path) for path in found}


def load_view(path: Path) -> ViewPlan:
    """One view file as a plan.

    Raises:
        ViewError: it cannot be kept; the message names file, line and construct.
    """
    with LOADING:
        return _load(path)


def _load(path: Path) -> ViewPlan:
    name = path.stem
    taken = TAKEN | set(relations())
    if not NAME.fullmatch(name) or name in taken or name.startswith("tally_"):
        raise ViewError(
            f"{path.name}: the file's name is the view's: small letters, digits and _, not beginning with tally_, and none of "
            f"{', '.join(sorted(taken))}"
        )
    try:
        sql = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ViewError(f"{path.name}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    shape = read(path, sql)
    con = scratch().cursor()
    try:
        query = only_statement(sql)
        con.execute(f"EXPLAIN {query}")
        made = (
            _attribution(con, path, query, shape)
            if isinstance(shape, Attribution)
            else _grouped(con, path, query, shape)
        )
        _try_out(con, made)
        return made
    except duckdb.Error as error:
        read_from = [shape.left.relation, shape.right.relation] if isinstance(shape, Attribution) else [shape.relation]
        columns = "; ".join(f"the columns of {r.name} are {', '.join(r.columns)}" for r in read_from)
        raise ViewError(f"{path.name}:{_line(str(error), sql)}: {_first(error)}; {columns}") from None


def only_statement(sql: str) -> str:
    """The file's query without the semicolon and what stands behind it, which can be a comment only."""
    return duckdb.extract_statements(sql)[0].query.strip().rstrip(";")


def _try_out(con: duckdb.DuckDBPyConnection, plan: ViewPlan) -> None:
    """Runs every statement of the plan over no rows, and takes all back: what fails here would stop a stream."""
    con.execute("BEGIN")
    try:
        for statement in plan.state_ddl():
            con.execute(statement)
        topic = plan.topics[0]
        con.execute(f"CREATE TEMP TABLE {DELTA} AS {plan.partial_sql(topic, topic)} LIMIT 0")
        for statement in [*plan.merge_sql(DELTA), *plan.freeze_sql(1), *plan.thaw_sql(DELTA), plan.view_sql()]:
            con.execute(statement)
        con.execute(f"FROM main.{quote(plan.name)}").fetchall()
        con.execute(f"SELECT * FROM ({plan.batch_sql()}) LIMIT 0")
    finally:
        con.execute("ROLLBACK")


def _attribution(con: duckdb.DuckDBPyConnection, path: Path, sql: str, shape: Attribution) -> ViewPlan:
    # Both sides over tables of their topics: only the types are asked for.
    state: dict[str, str] = {}
    for topic in {*shape.left.relation.topics, *shape.right.relation.topics}:
        state |= {
            k: v
            for k, v in describe(con, attribution.partial_sql(shape, topic, [topic])).items()
            if k not in state or v != '"NULL"'
        }
    del state["side"]
    return AttributionPlan(path.stem, path, sql, describe(con, sql), state, shape)


def _grouped(con: duckdb.DuckDBPyConnection, path: Path, sql: str, shape: Grouped) -> ViewPlan:
    topic = shape.relation.topics[0]
    is_session = shape.window is not None and shape.window.kind == "session"
    in_row = is_session or any(a.kind.startswith("approx") for a in shape.aggregates)
    source = shape.relation.over(topic, topic)
    made = session.session_partial_sql(shape, source) if is_session else grouped_sql.partial_sql(shape, in_row, source)
    partial = describe(con, made)
    types = describe(con, sql)
    state = {k: v for k, v in partial.items() if not re.fullmatch(r"a\d+m", k)}
    for i, a in enumerate(shape.aggregates):
        if a.kind in ("sum", "avg") and state.get(f"a{i}", state.get(f"a{i}s")) in FLOATS:
            raise ViewError(
                f"{path.name}:{_line(a.args[0], sql)}: {a.kind}({a.args[0]}): a sum of floating numbers depends on the order of the events; "
                "sum integers, such as cents, and divide when you query"
            )
        if a.kind in ("sum", "avg") and WIDE.fullmatch(state.get(f"a{i}", state.get(f"a{i}s", ""))):
            kind = describe(con, f"SELECT {a.args[0]} AS v FROM {source}")["v"]
            if kind in ("HUGEINT", "UHUGEINT") or (
                kind.startswith("DECIMAL(") and int(kind[8:].split(",")[0]) > DIGITS
            ):
                raise ViewError(
                    f"{path.name}:{_line(a.args[0], sql)}: {a.kind}({a.args[0]}): a sum of {kind} can overflow, and would stop the stream; "
                    f"cast it to BIGINT, or to a DECIMAL of {DIGITS} digits at most"
                )
        if a.kind == "distinct" and not in_row:
            if shape.window is None:
                raise ViewError(
                    f"{path.name}:{_line('DISTINCT', sql)}: count(DISTINCT {a.args[0]}): without a window its members are kept for ever; "
                    "count them in a window, or use approx_count_distinct"
                )
            state[f"a{i}"] = "BIGINT"
        if a.kind.startswith("approx") or (a.kind == "distinct" and in_row):
            state[f"a{i}c"] = "DOUBLE" if a.kind == "approx_quantile" else "BIGINT"
    for column, kind in {**partial, **state}.items():
        if UNNAMED.search(kind):
            value = (
                shape.keys[int(column[1:])]
                if column.startswith("k")
                else shape.aggregates[int(column.strip("amsn"))].args[-1]
            )
            raise ViewError(
                f"{path.name}:{_line(value, sql)}: {value}: a tuple's parts have no names, and so no table can keep it; "
                "write struct_pack(a := …, b := …)"
            )
    bits = next((int(k[1:]) for k, kind in state.items() if kind == "BIT" and k.startswith("k")), None)
    if bits is not None:
        key = shape.keys[bits]
        raise ViewError(f"{path.name}:{_line(key, sql)}: {key}: a BIT cannot be a key; cast it to VARCHAR")
    plan = SessionPlan if is_session else GroupedPlan
    return plan(path.stem, path, sql, types, state, shape, partial)


def _first(error: duckdb.Error) -> str:
    return re.split(r"\n+LINE|\tCandidate functions|\n+Stack Trace", str(error))[0].replace("\n", " ").strip()


def _line(message: str, sql: str) -> int:
    found = re.search(r"LINE (\d+):", message)
    named = re.search(r'"(\w+)"', message)
    word = named[1] if named else message if re.fullmatch(r"\w+", message) else None
    if word:
        for number, line in enumerate(sql.splitlines(), 1):
            if re.search(rf"\b{word}\b", line.split("--")[0]):
                return number
    return int(found[1]) if found else 1
