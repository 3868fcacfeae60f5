"""Models: a SQL file and a small YAML beside it, on top of the live views and the archive.

A model is one SELECT. What it reads is found in its text: other models by name, live views by name, archived events
as `archive.orders` and `archive.clicks`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import sqlglot
import yaml
from sqlglot import exp
from sqlglot.errors import SqlglotError

from tallystream.errors import TallyError
from tallystream.settings import PROJECT
from tallystream.views.loader import RELATIONS
from tallystream.views.plan import ViewPlan, quote

MODELS = PROJECT / "dbt_like_models"
LAYERS = ("staging", "marts")
KEYS = {"owner", "materialized", "grain", "columns", "expectations"}
# What stands before the contract's columns in the archive; see warehouse/archive_files.py.
ARCHIVED = 'topic VARCHAR, partition INTEGER, "offset" BIGINT, record_time TIMESTAMP, key BLOB'


class ModelError(TallyError):
    """A model's file is wrong: which one, where, and what to do."""


@dataclass(frozen=True)
class Model:
    """One model. `grain`: the columns that tell a row from another; `columns`: name -> description."""

    name: str
    layer: str
    sql: str
    description: str
    owner: str
    materialized: str
    grain: tuple[str, ...]
    columns: Mapping[str, str]
    expectations: tuple[Mapping[str, Any], ...]

    @cached_property
    def tree(self) -> exp.Expr:
        """Its SELECT, parsed."""
        return sqlglot.parse_one(self.sql, dialect="duckdb")

    @cached_property
    def reads(self) -> frozenset[str]:
        """Names of what it reads: models, views, `archive.<topic>`; its own WITH names are left out."""
        own = {cte.alias for cte in self.tree.find_all(exp.CTE)}
        tables = [(t.db, t.name) for t in self.tree.find_all(exp.Table)]
        return frozenset(f"{db}.{name}" if db else name for db, name in tables if db or name not in own)


@dataclass(frozen=True)
class Models:
    """All models in an order in which each comes after those it reads.

    `sources`: relation -> its columns as DDL. `missing`: model -> what it would read and nobody has, such as a view that
    is not kept here; such models are left out, with those that read them.
    """

    models: dict[str, Model]
    sources: dict[str, str]
    missing: dict[str, tuple[str, ...]]

    def above(self, name: str, given: Collection[str] = ()) -> list[Model]:
        """The models that `name` needs, itself last, in order; those `given` are tables already."""
        needed = {name}
        for model in reversed(self.models.values()):
            if model.name in needed:
                needed |= {r for r in model.reads if r in self.models and r not in given}
        return [m for m in self.models.values() if m.name in needed]

    def sources_of(self, name: str) -> frozenset[str]:
        """The views and archived topics that `name` is made of, through other models too."""
        return frozenset(r for m in self.above(name) for r in m.reads if r in self.sources)

    def query(self, name: str, given: Collection[str] = ()) -> str:
        """One SELECT for the whole model, with the models that it reads as WITH: it sees one committed state."""
        parts = [f"{quote(m.name)} AS (\n{m.sql}\n)" for m in self.above(name, given)]
        return f"WITH {', '.join(parts)}\nSELECT * FROM {quote(name)}"


def load_models(views: Mapping[str, ViewPlan], folder: Path = MODELS) -> Models:
    """Reads all model files of `folder`/staging and `folder`/marts.

    Raises:
        ModelError: a file cannot be read, two have one name, or models read each other in a circle.
    """
    found: dict[str, Model] = {}
    for layer in LAYERS:
        for path in sorted((folder / layer).glob("*.sql")):
            if path.stem in found or path.stem in views:
                raise ModelError(f"{layer}/{path.name}: the name {path.stem} is taken; rename the file")
            found[path.stem] = _load(path, layer)
    sources = {name: _ddl(plan) for name, plan in views.items()}
    sources |= {f"archive.{topic}": f"{ARCHIVED}, {columns}" for topic, columns in RELATIONS.items()}
    missing: dict[str, tuple[str, ...]] = {}
    models: dict[str, Model] = {}
    for name in _ordered(found):
        absent = tuple(sorted(r for r in found[name].reads if r not in models and r not in sources))
        if absent:
            missing[name] = absent
        else:
            models[name] = found[name]
    return Models(models, sources, missing)


def _ordered(found: Mapping[str, Model]) -> list[str]:
    try:
        return list(
            TopologicalSorter({n: sorted(r for r in m.reads if r in found) for n, m in found.items()}).static_order()
        )
    except CycleError as error:
        raise ModelError(f"models read each other in a circle: {' -> '.join(error.args[1])}; break it") from None


def view_columns(plan: ViewPlan) -> dict[str, str]:
    """Column -> DuckDB type of a view as people see it, `is_final` included."""
    return {**plan.types, **({"is_final": "BOOLEAN"} if plan.final_condition("rows") is not None else {})}


def _ddl(plan: ViewPlan) -> str:
    return ", ".join(f"{quote(name)} {kind}" for name, kind in view_columns(plan).items())


def _load(path: Path, layer: str) -> Model:
    sql = path.read_text(encoding="utf-8").strip().rstrip(";")
    at = f"{layer}/{path.name}"
    try:
        statements = sqlglot.parse(sql, dialect="duckdb")
    except SqlglotError as error:
        raise ModelError(f"{at} cannot be read: {str(error).splitlines()[0]}") from None
    if len(statements) != 1 or not isinstance(statements[0], exp.Query):
        raise ModelError(f"{at}: a model is one SELECT")
    beside = path.with_suffix(".yaml")
    if not beside.exists():
        raise ModelError(f"{at} has no {beside.name} beside it: owner, materialized, grain and columns")
    told = _yaml(beside)
    comment = [line.removeprefix("--").strip() for line in sql.splitlines() if line.startswith("--")]
    return Model(
        name=path.stem,
        layer=layer,
        sql=sql,
        description=" ".join(comment),
        owner=str(told["owner"]),
        materialized=str(told["materialized"]),
        grain=tuple(told["grain"]),
        columns=dict(told["columns"]),
        expectations=tuple(told.get("expectations", ())),
    )


def _yaml(path: Path) -> dict[str, Any]:
    at = f"{path.parent.name}/{path.name}"
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ModelError(f"{at} is no YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(told, dict) or not KEYS - {"expectations"} <= set(told) <= KEYS:
        raise ModelError(f"{at}: say {', '.join(sorted(KEYS))} (expectations may be left out), and nothing else")
    if told["materialized"] not in ("view", "table"):
        raise ModelError(f"{at}: materialized is view or table, not {told['materialized']}")
    unknown = [c for c in told["grain"] if c not in told["columns"]]
    if unknown:
        raise ModelError(f"{at}: the grain names {', '.join(unknown)}, which is no column")
    return told
