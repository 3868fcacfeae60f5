"""Builds models: from the live views in one query, or from the archive; tables become Parquet files, whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tallystream.database import connect
from tallystream.models.load import Model, ModelError, Models
from tallystream.settings import TOPICS, Settings
from tallystream.store.objects import Store, sync
from tallystream.warehouse.archive_files import read, schema_of
from tallystream.warehouse.archive_index import load, partitions
from tallystream.warehouse.read import open_reader

PREFIX = "archive."


@dataclass(frozen=True)
class Built:
    """A model that was built: its rows, the file of a table (None for a view), bytes of that file."""

    name: str
    rows: int
    path: Path | None
    size: int


def models_dir(settings: Settings) -> Path:
    """Where tables are kept."""
    return settings.root / "models"


def build(settings: Settings, store: Store, models: Models, name: str) -> Built:
    """Makes a model anew from what it is made of now.

    A view is only run, to prove that it can be; a table replaces its file in one step.

    Raises:
        ModelError: there is no such model, or it reads views and the archive at once.
        QueryError: its SQL is wrong.
        WarehouseError: there is no warehouse, or the archive is damaged; the file of before stands.
    """
    model = _of(models, name)
    if model.materialized == "view":
        found = rows_of(settings, store, models, name, f"SELECT count(*) AS n FROM ({models.query(name)})")
        return Built(name, int(found["n"][0].as_py()), None, 0)
    table = rows_of(settings, store, models, name)
    path = models_dir(settings) / model.layer / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".part")
    pq.write_table(table, scratch, compression="zstd")
    sync(scratch)
    scratch.replace(path)
    sync(path.parent)
    return Built(name, table.num_rows, path, path.stat().st_size)


def rows_of(settings: Settings, store: Store, models: Models, name: str, sql: str | None = None) -> pa.Table:
    """The rows that a model has now; `sql` asks something else of the same sources."""
    _of(models, name)
    query = sql or models.query(name)
    sources = models.sources_of(name)
    archived = sorted(s for s in sources if s.startswith(PREFIX))
    if not archived:
        with open_reader(settings) as reader:
            return reader.arrow(query)
    if len(archived) < len(sources):
        raise ModelError(
            f"{name} reads live views and the archive at once ({', '.join(sorted(sources))}): they are not of one moment; "
            "make two models of it"
        )
    with connect() as con:
        con.execute("CREATE SCHEMA archive")
        for source in archived:
            con.register("archived", _archived(store, source.removeprefix(PREFIX)))
            con.execute(f"CREATE TABLE {source} AS FROM archived")
            con.unregister("archived")
        return con.execute(query).to_arrow_table()


def _of(models: Models, name: str) -> Model:
    if name in models.models:
        return models.models[name]
    if name in models.missing:
        raise ModelError(f"{name} reads {', '.join(models.missing[name])}, which is not kept here; add that view first")
    raise ModelError(f"there is no model {name}; there are: {', '.join(models.models)}")


def _archived(store: Store, topic: str) -> pa.Table:
    """All archived events of a topic, from a store of any kind."""
    assert topic in TOPICS
    schema = schema_of(topic)
    spans = [span for p in partitions(store, topic) for span in load(store, topic, p).spans]
    tables = [read(store, span.events, schema) for span in spans if span.events]
    return pa.concat_tables(tables) if tables else schema.empty_table()
