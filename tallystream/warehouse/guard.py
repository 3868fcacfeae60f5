"""Says whether a query only reads the warehouse, by DuckDB's own parser.

A prefix is no proof: `select 1; drop table t` begins well. The same function judges on the server (every client),
at rest, and in `tally sql`, which shows its sentence.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from typing import Any

import duckdb

from tallystream.errors import QueryError

# What a FROM may call. Any other table function is refused: those of DuckDB that read files, run SQL from a string,
# list secrets and settings, or write, grow with each release, and a list of bad ones would miss the next.
TABLE_FUNCTIONS = frozenset(
    [
        "range",
        "generate_series",
        "unnest",
        "repeat",
        "repeat_row",
        "json_each",
        "json_tree",
        "duckdb_tables",
        "duckdb_columns",
        "duckdb_views",
        "duckdb_schemas",
        "duckdb_functions",
        "duckdb_types",
        "duckdb_constraints",
        "duckdb_indexes",
        "pragma_table_info",
        "provenance",
    ]
)
# Scalar functions that show the environment or settings, change a sequence or the log, or run SQL from a string.
SCALARS = frozenset(
    [
        "getenv",
        "current_setting",
        "nextval",
        "currval",
        "write_log",
        "json_execute_serialized_sql",
        "json_serialize_plan",
        "tally_authorize",
        "which_secret",
    ]
)
SCALAR_PREFIXES = ("quack_", "read_")
RELATIONS = frozenset(("pg_settings", "duckdb_logs", "duckdb_secrets", "duckdb_settings"))
SHOWN = frozenset(("", '"tables"', '"databases"', "__show_tables_expanded"))
# `FROM 'x.csv'` parses as a table of that name; no relation of ours has such a character in it.
PATH_LIKE = re.compile(r"[./\\*?:\[~]")
WHAT_TO_DO = "send exactly one SELECT over the tables and views of the warehouse"

_lock = threading.Lock()
_parser: duckdb.DuckDBPyConnection | None = None


def check_select(sql: str) -> None:
    """Passes one SELECT over relations of the warehouse, and nothing else.

    Raises:
        QueryError: what is refused, and why; for a syntax error DuckDB's own text with the place (`LINE n: … ^`).
    """
    try:
        # One private in-memory database parses for all threads; nothing is ever bound or executed in it.
        with _lock:
            parser = _shared_parser()
            statements = parser.extract_statements(sql)
            found = parser.execute("SELECT json_serialize_sql(?)", [sql]).fetchone() if len(statements) == 1 else None
    except duckdb.PermissionException:
        # DuckDB's sentence names the file: whether it is there is nobody's business either.
        raise QueryError(f"a statement that reads files is refused; {WHAT_TO_DO}") from None
    except duckdb.Error as error:
        raise QueryError(str(error)) from None
    if len(statements) != 1:
        raise QueryError(f"the query has {len(statements)} statements; {WHAT_TO_DO}")
    if statements[0].type != duckdb.StatementType.SELECT:
        raise QueryError(f"{statements[0].type.name} is refused: queries only read; {WHAT_TO_DO}")
    assert found is not None
    try:
        tree = json.loads(found[0])
    except RecursionError:
        raise QueryError("the query is nested too deeply to be checked; write it with WITH clauses") from None
    if tree["error"]:
        # A PRAGMA becomes a SELECT in extract_statements, but not here.
        raise QueryError(f"PRAGMA and the like are refused, although DuckDB runs them as SELECT; {WHAT_TO_DO}")
    if len(tree["statements"]) != 1:
        raise QueryError(f"the query has {len(tree['statements'])} statements; {WHAT_TO_DO}")
    for node in _nodes(tree["statements"]):
        _check_node(node)


def authorize(_session: str | None, sql: str | None) -> str | None:
    """The server's authorization function: the SQL to run in place of `sql`; None refuses without a word.

    A refusal with a sentence is a SELECT that raises it. Not for INSERT: Quack asks with a made-up
    `INSERT INTO t VALUES (NULL)` before it takes rows that a client streams in, never runs what is answered,
    and takes every text for a yes.
    """
    if sql is None or sql.lstrip()[:6].upper() == "INSERT":
        return None
    try:
        check_select(sql)
    except QueryError as error:
        return f"SELECT error('{str(error).replace(chr(39), chr(39) * 2)}')"
    return sql


def _shared_parser() -> duckdb.DuckDBPyConnection:
    global _parser
    if _parser is None:
        _parser = duckdb.connect(
            config={
                "threads": 1,
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
                # IMPORT DATABASE is parsed by reading the folder's scripts, and an error would show their text.
                "enable_external_access": "false",
                "lock_configuration": "true",
            }
        )
    return _parser


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object of the tree; without recursion, a deep query cannot exhaust the stack."""
    todo = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            yield node
            todo += node.values()
        elif isinstance(node, list):
            todo += node


def _check_node(node: dict[str, Any]) -> None:
    kind = node.get("type")
    if kind == "TABLE_FUNCTION":
        name = str(node["function"].get("function_name", "")).lower()
        if name not in TABLE_FUNCTIONS:
            raise QueryError(
                f"the table function {name} is refused: it may read files, settings or other SQL; {WHAT_TO_DO}"
            )
    elif kind == "BASE_TABLE":
        name = str(node.get("table_name", ""))
        if PATH_LIKE.search(name):
            raise QueryError(f"'{name}' is refused: queries read no files; {WHAT_TO_DO}")
        if name.lower() in RELATIONS:
            raise QueryError(f"{name} is refused: settings, logs and secrets are not for readers; {WHAT_TO_DO}")
    elif kind == "SHOW_REF" and node.get("table_name") not in SHOWN:
        raise QueryError(f"SHOW {node.get('table_name')} is refused; SHOW TABLES, SHOW ALL TABLES and DESCRIBE are not")
    called = str(node.get("function_name") or "").lower()
    if called in SCALARS or called.startswith(SCALAR_PREFIXES):
        raise QueryError(f"the function {called} is refused: it reaches beyond the warehouse's rows; {WHAT_TO_DO}")
