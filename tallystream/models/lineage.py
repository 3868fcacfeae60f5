"""Which column comes from which: of a model from what it reads, of a live view from its topic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import sqlglot
from sqlglot import exp
from sqlglot.lineage import Node, lineage
from sqlglot.optimizer.qualify import qualify

from tallystream.models.load import Model, Models
from tallystream.settings import TOPICS
from tallystream.views.dialect import DIALECT
from tallystream.views.plan import ViewPlan
from tallystream.views.relation import Relation
from tallystream.views.relations import relations

Columns = dict[str, list[tuple[str, str]]]
WINDOW = {
    "window_start": "Where the window begins, UTC.",
    "window_end": "Where it ends, UTC: no event at that time is in it.",
}
IS_FINAL = "Whether the watermark has passed the row: no event in the log to come changes it."
TOPIC_FIELDS = {topic: set(relations()[topic].columns) for topic in TOPICS}


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


def view_lineage(plan: ViewPlan) -> Columns:
    """Column of a live view -> the (topic, column) pairs that it is made of; windows come from event_time."""
    select = sqlglot.parse_one(plan.sql, dialect=DIALECT)
    sources = {r.name: _origins(r) for r in plan.relations}
    aliases = {t.alias_or_name: t.name for t in select.find_all(exp.Table) if t.name in sources}
    found: Columns = {}
    for item in select.expressions:
        pairs: set[tuple[str, str]] = set()
        for column in item.find_all(exp.Column):
            name = "event_time" if column.name in WINDOW else column.name
            for relation in [aliases[column.table]] if column.table in aliases else list(sources):
                pairs |= sources[relation].get(name, set())
        found[item.alias_or_name] = sorted(pairs)
    if plan.final_condition("rows") is not None:
        found["is_final"] = [(t, "event_time") for t in plan.topics]
    return found


def view_descriptions(plan: ViewPlan, docs: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Column of a live view -> what makes it: the expression of its file, and what is said of the one column that it is made of.

    `docs`: topic -> column -> description.
    """
    select = sqlglot.parse_one(plan.sql, dialect=DIALECT)
    origins, found = view_lineage(plan), {}
    for item in select.expressions:
        made, name = item.unalias(), item.alias_or_name
        # Beside another column, the time is what that one is chosen by.
        columns = [(t, c) for t, c in origins[name] if c != "event_time"] or origins[name]
        told = " ".join(sorted({docs[t][c] for t, c in columns if docs[t].get(c)}))
        if made.name in WINDOW and isinstance(made, exp.Column):
            found[name] = WINDOW[made.name]
        elif isinstance(made, exp.Column):
            found[name] = told
        else:
            sql = made.sql(dialect="duckdb", normalize_functions="lower")
            found[name] = f"`{sql}`: {told}" if told else f"`{sql}`"
    if "is_final" in origins:
        found["is_final"] = IS_FINAL
    return found


def _origins(relation: Relation) -> dict[str, set[tuple[str, str]]]:
    """Column of a relation -> the topics' columns that it shows."""
    found: dict[str, set[tuple[str, str]]] = {name: set() for name in relation.columns}
    for topic, sql in relation.sources.items():
        if relation.name == topic:
            return {name: {(topic, name)} for name in relation.columns}
        branch = sqlglot.parse_one(sql.replace("{topic}", topic), dialect=DIALECT)
        inner = {a.alias: a.this for a in branch.find_all(exp.Alias) if a.find_ancestor(exp.Subquery)}
        for item in branch.find(exp.Select).expressions:  # type: ignore[union-attr]
            for column in item.find_all(exp.Column):
                # `item.product_id` is a field of an unnested list: it comes from the list.
                made = inner.get(column.table) or inner.get(column.name)
                names = [c.name for c in made.find_all(exp.Column)] if made is not None else [column.name]
                found[item.alias_or_name] |= {(topic, n) for n in names if n in TOPIC_FIELDS[topic]}
    return found
