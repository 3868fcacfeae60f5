"""Which column comes from which: of a model from what it reads, of a live view from its topic."""

from __future__ import annotations

from collections.abc import Iterable

import sqlglot
from sqlglot import exp
from sqlglot.lineage import Node, lineage
from sqlglot.optimizer.qualify import qualify

from tallystream.models.load import Model, Models
from tallystream.views.plan import ViewPlan
from tallystream.views.read import ViewDialect

Columns = dict[str, list[tuple[str, str]]]
WINDOW = ("window_start", "window_end")


def model_lineage(models: Models, types: dict[str, dict[str, str]], name: str) -> Columns:
    """Column of the model -> the (relation, column) pairs of its direct sources that it is made of.

    `types`: relation -> column -> DuckDB type, for everything that the model reads.
    """
    model = models.models[name]
    schema: dict[str, object] = {}
    for relation in sorted(model.reads):
        db, _, table = relation.rpartition(".")
        # One depth for all: a relation without a schema is of main, as in DuckDB.
        schema.setdefault(db or "main", {})[table] = types[relation]  # type: ignore[index]
    tree = qualify(_in_main(model), schema=schema, dialect="duckdb", quote_identifiers=False)
    return {c: sorted(set(_leaves(lineage(c, tree.copy(), schema=schema, dialect="duckdb")))) for c in types[name]}


def _in_main(model: Model) -> exp.Expr:
    tree = model.tree.copy()
    own = {cte.alias for cte in tree.find_all(exp.CTE)}
    for table in tree.find_all(exp.Table):
        if not table.db and table.name not in own:
            table.set("db", exp.to_identifier("main"))
    return tree


def _leaves(node: Node) -> Iterable[tuple[str, str]]:
    for found in node.walk():
        if isinstance(found.source, exp.Table) and not found.downstream:
            table = found.source
            relation = table.name if table.db in ("", "main") else f"{table.db}.{table.name}"
            yield relation, found.name.rpartition(".")[2].strip('"')


def view_lineage(plan: ViewPlan, topic_columns: dict[str, list[str]]) -> Columns:
    """Column of a live view -> the (topic, column) pairs that it is made of; windows come from event_time."""
    select = sqlglot.parse_one(plan.sql, dialect=ViewDialect)
    found: Columns = {}
    for item in select.expressions:
        names = {c.name for c in item.find_all(exp.Column)}
        names = {"event_time" if n in WINDOW else n for n in names}
        found[item.alias_or_name] = sorted((t, n) for t in plan.topics for n in names if n in topic_columns[t])
    if plan.window:
        found["is_final"] = [(t, "event_time") for t in plan.topics]
    return found
