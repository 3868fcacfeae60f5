"""Unit tests of models: given these rows, expect those. Cases are YAML; they need no warehouse and no stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import yaml

from tallystream.database import connect
from tallystream.models.load import ModelError, Models
from tallystream.views.plan import quote

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """`given`: relation (view, archived topic or model) -> rows, columns left out are NULL; `expect`: all rows, in any order."""

    model: str
    name: str
    given: Mapping[str, list[Row]]
    expect: list[Row]


def load_cases(folder: Path) -> list[Case]:
    """All cases of the YAML files of a folder.

    Raises:
        ModelError: a file is no list of cases.
    """
    found = []
    for path in sorted(folder.glob("*.yaml")):
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
        try:
            found += [Case(told["model"], c["name"], c["given"], c["expect"]) for c in told["cases"]]
        except (KeyError, TypeError) as error:
            raise ModelError(
                f"{path.name}: a file says model and cases, a case name, given and expect: {error}"
            ) from None
    return found


@contextmanager
def empty_sources(models: Models) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory with every view and archived topic, empty."""
    with connect() as con:
        con.execute("CREATE SCHEMA archive")
        for relation, columns in models.sources.items():
            con.execute(f"CREATE TABLE {relation} ({columns})")
        yield con


def column_types(models: Models) -> dict[str, dict[str, str]]:
    """Relation -> column -> DuckDB type, of all sources and models.

    Raises:
        ModelError: a model cannot be bound, or its YAML tells other columns than its SQL.
    """
    found: dict[str, dict[str, str]] = {}
    with empty_sources(models) as con:
        for relation in models.sources:
            found[relation] = _described(con, f"FROM {relation}")
        for name, model in models.models.items():
            try:
                found[name] = _described(con, models.query(name))
            except duckdb.Error as error:
                raise ModelError(f"{model.layer}/{name}.sql: {str(error).splitlines()[0]}") from None
            if list(found[name]) != list(model.columns):
                raise ModelError(
                    f"{model.layer}/{name}.yaml tells columns {', '.join(model.columns)}; the SQL gives {', '.join(found[name])}"
                )
    return found


def problems(models: Models, case: Case) -> list[str]:
    """What is wrong: rows missing and rows too many, one sentence each; empty when the case holds.

    Only the columns that the expected rows name are compared.
    """
    with empty_sources(models) as con:
        for relation, rows in case.given.items():
            if relation in models.models:
                con.execute(f"CREATE TABLE {quote(relation)} AS {models.query(relation)}")
            for row in rows:
                names = ", ".join(quote(c) for c in row)
                con.execute(
                    f"INSERT INTO {relation} ({names}) VALUES ({', '.join('?' * len(row))})", list(row.values())
                )
        columns = list(dict.fromkeys(c for row in case.expect for c in row))
        chosen = ", ".join(quote(c) for c in columns) if columns else "*"
        query = models.query(case.model, [r for r in case.given if r in models.models])
        got = Counter(con.execute(f"SELECT {chosen} FROM ({query})").fetchall())
    wanted = Counter(tuple(row.get(c) for c in columns) for row in case.expect)
    told = [f"missing: {dict(zip(columns, row, strict=True))}" for row in (wanted - got).elements()]
    return told + [f"too many: {dict(zip(columns, row, strict=False))}" for row in (got - wanted).elements()]


def _described(con: duckdb.DuckDBPyConnection, query: str) -> dict[str, str]:
    return {row[0]: row[1] for row in con.execute(f"DESCRIBE {query}").fetchall()}
