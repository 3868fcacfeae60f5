"""Loads the folder of view files into plans; each is bound by DuckDB before anything trusts it."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb

from tallystream.errors import ViewError
from tallystream.settings import PROJECT
from tallystream.views.plan import ViewPlan
from tallystream.views.read import read
from tallystream.views.relations import (
    MACROS,
    TOPIC_COLUMNS,
    create_relations,
    describe,
    install_macros,
    relations,
    scratch,
)
from tallystream.views.shape import Attribution, Grouped
from tallystream.views.shapes import attribution, grouped, session
from tallystream.views.shapes.attribution import AttributionPlan
from tallystream.views.shapes.grouped import GroupedPlan
from tallystream.views.shapes.session import SessionPlan

__all__ = ["MACROS", "RELATIONS", "VIEWS", "create_relations", "install_macros", "load_view", "load_views"]

VIEWS = PROJECT / "sql" / "views"
RELATIONS = TOPIC_COLUMNS
NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
TAKEN = {"late_events", "dead_letters", "tallystream_schema", "tumble", "hop", "session", "provenance"}
FLOATS = ("FLOAT", "DOUBLE")


def load_views(folder: Path | None = None) -> dict[str, ViewPlan]:
    """All view files of a folder, by name.

    Raises:
        ViewError: one of them cannot be kept; the message names file, line and construct.
    """
    folder = folder or VIEWS
    if not folder.is_dir():
        raise ViewError(f"{folder} is no folder of view files")
    return {path.stem: load_view(path) for path in sorted(folder.glob("*.sql"))}


def load_view(path: Path) -> ViewPlan:
    """One view file as a plan.

    Raises:
        ViewError: it cannot be kept; the message names file, line and construct.
    """
    name = path.stem
    taken = TAKEN | set(relations())
    if not NAME.fullmatch(name) or name in taken:
        raise ViewError(
            f"{path.name}: the file's name is the view's: small letters, digits and _, and none of {', '.join(sorted(taken))}"
        )
    try:
        sql = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ViewError(f"{path.name}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    shape = read(path, sql)
    con = scratch().cursor()
    try:
        con.execute(f"EXPLAIN {sql.strip().rstrip(';')}")
        if isinstance(shape, Attribution):
            return _attribution(con, path, sql, shape)
        return _grouped(con, path, sql, shape)
    except duckdb.Error as error:
        read_from = [shape.left.relation, shape.right.relation] if isinstance(shape, Attribution) else [shape.relation]
        columns = "; ".join(f"the columns of {r.name} are {', '.join(r.columns)}" for r in read_from)
        raise ViewError(f"{path.name}:{_line(str(error), sql)}: {_first(error)}; {columns}") from None


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
    return AttributionPlan(path.stem, path, sql, describe(con, sql.strip().rstrip(";")), state, shape)


def _grouped(con: duckdb.DuckDBPyConnection, path: Path, sql: str, shape: Grouped) -> ViewPlan:
    topic = shape.relation.topics[0]
    is_session = shape.window is not None and shape.window.kind == "session"
    in_row = is_session or any(a.kind.startswith("approx") for a in shape.aggregates)
    source = shape.relation.over(topic, topic)
    made = session.session_partial_sql(shape, source) if is_session else grouped.partial_sql(shape, in_row, source)
    partial = describe(con, made)
    types = describe(con, sql.strip().rstrip(";"))
    state = {k: v for k, v in partial.items() if not re.fullmatch(r"a\d+m", k)}
    for i, a in enumerate(shape.aggregates):
        if a.kind in ("sum", "avg") and state.get(f"a{i}", state.get(f"a{i}s")) in FLOATS:
            raise ViewError(
                f"{path.name}:{_line(a.args[0], sql)}: {a.kind}({a.args[0]}): a sum of floating numbers depends on the order of the events; "
                "sum integers, such as cents, and divide when you query"
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
    plan = SessionPlan if is_session else GroupedPlan
    return plan(path.stem, path, sql, types, state, shape, partial)


def _first(error: duckdb.Error) -> str:
    return str(error).split("\n\nLINE")[0].split("\tCandidate functions")[0].replace("\n", " ").strip()


def _line(message: str, sql: str) -> int:
    found = re.search(r"LINE (\d+):", message)
    named = re.search(r'"(\w+)"', message)
    word = named[1] if named else message if re.fullmatch(r"\w+", message) else None
    if word:
        for number, line in enumerate(sql.splitlines(), 1):
            if re.search(rf"\b{word}\b", line.split("--")[0]):
                return number
    return int(found[1]) if found else 1
