"""Views and models as the definitions need them: read once a process, with column schemas and lineage."""

from dataclasses import dataclass
from functools import cache

import dagster as dg

from tallystream.models.cases import column_types
from tallystream.models.lineage import Columns, model_lineage, view_descriptions, view_lineage
from tallystream.models.load import Models, load_models, view_columns
from tallystream.topics.contracts import contract
from tallystream.views.loader import load_views
from tallystream.views.plan import ViewPlan

# What stands before an event in the archive, and what it is.
PLACE = {
    "topic": "Where the message was.",
    "partition": "Its partition.",
    "offset": "Its place there.",
    "record_time": "Kafka's own timestamp of it, UTC.",
    "key": "Its key, as bytes.",
}


@dataclass(frozen=True)
class Catalog:
    """`types`: relation -> column -> DuckDB type, for views, `archive.<topic>` and models."""

    views: dict[str, ViewPlan]
    models: Models
    types: dict[str, dict[str, str]]


@cache
def catalog() -> Catalog:
    """The shipped views and models.

    Raises:
        TallyError: a view or model file is wrong.
    """
    views = load_views()
    models = load_models(views)
    return Catalog(views, models, column_types(models))


def topic_key(topic: str) -> dg.AssetKey:
    """A Kafka topic."""
    return dg.AssetKey(["topics", topic])


def view_key(name: str) -> dg.AssetKey:
    """A live view."""
    return dg.AssetKey(["views", name])


def archive_key(topic: str) -> dg.AssetKey:
    """A topic's archive."""
    return dg.AssetKey(["archive", topic])


def model_key(name: str) -> dg.AssetKey:
    """A model, below its layer."""
    return dg.AssetKey([catalog().models.models[name].layer, name])


def relation_key(relation: str) -> dg.AssetKey:
    """The asset of a relation that a model reads."""
    if relation.startswith("archive."):
        return archive_key(relation.removeprefix("archive."))
    return model_key(relation) if relation in catalog().models.models else view_key(relation)


def topic_columns(topic: str) -> list[str]:
    """The contract's columns: those of the archive without the message's place in the log."""
    return [c for c in catalog().types[f"archive.{topic}"] if c not in PLACE]


def archive_schema(topic: str) -> dg.TableSchema:
    """A topic's archived columns: the message's place, and the contract's."""
    return schema_of(catalog().types[f"archive.{topic}"], PLACE | contract(topic).docs)


def topic_schema(topic: str) -> dg.TableSchema:
    """The contract's columns, in its words."""
    types = catalog().types[f"archive.{topic}"]
    return schema_of({c: types[c] for c in topic_columns(topic)}, contract(topic).docs)


def view_schema(plan: ViewPlan) -> dg.TableSchema:
    """A view's columns, told by what makes them."""
    docs = {topic: contract(topic).docs for topic in plan.topics}
    return schema_of(view_columns(plan), view_descriptions(plan, docs))


def archive_column_lineage(topic: str) -> dg.TableColumnLineage:
    """From the topic's columns of the same name; a message's place is of no column."""
    return _lineage({c: [(("topics", topic), c)] for c in topic_columns(topic)})


def schema_of(types: dict[str, str], descriptions: dict[str, str] | None = None) -> dg.TableSchema:
    """Columns and types for the UI."""
    told = descriptions or {}
    return dg.TableSchema([dg.TableColumn(n, kind, description=told.get(n)) for n, kind in types.items()])


def view_column_lineage(plan: ViewPlan) -> dg.TableColumnLineage:
    """From the topics' columns."""
    found = view_lineage(plan)
    return _lineage({c: [(("topics", t), n) for t, n in deps] for c, deps in found.items()})


def model_column_lineage(name: str) -> dg.TableColumnLineage:
    """From the columns of what the model reads."""
    found: Columns = model_lineage(catalog().models, catalog().types, name)
    return _lineage({c: [(tuple(relation_key(r).path), n) for r, n in deps] for c, deps in found.items()})


def _lineage(found: dict[str, list[tuple[tuple[str, ...], str]]]) -> dg.TableColumnLineage:
    return dg.TableColumnLineage(
        {
            column: [dg.TableColumnDep(asset_key=dg.AssetKey(list(key)), column_name=name) for key, name in deps]
            for column, deps in found.items()
        }
    )
