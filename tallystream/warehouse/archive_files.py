"""The Parquet files of the archive: written from decoded batches, read back as decoded batches."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tallystream.errors import WarehouseError
from tallystream.store.objects import Store, digest_of
from tallystream.topics.batch import DEAD_SCHEMA, DecodedBatch, RawBatch
from tallystream.topics.contracts import contract
from tallystream.topics.letters import record_times
from tallystream.warehouse.archive_index import Piece, piece_path

# What stands before the contract's own columns. No contract may use these names for its fields.
HEAD = pa.schema(
    [
        ("topic", pa.string()),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("record_time", pa.timestamp("us")),
        ("key", pa.binary()),
    ]
)
ROW_GROUP = 100_000


def schema_of(topic: str) -> pa.Schema:
    """The columns of a topic's files."""
    return pa.schema([*HEAD, *(f.with_nullable(True) for f in contract(topic).arrow)])


def events_of(decoded: DecodedBatch) -> pa.Table:
    """The events of a batch with offset, record time and key, in log order."""
    raw, rows = decoded.raw, decoded.rows
    n = len(rows)
    head = [
        pa.repeat(pa.scalar(raw.topic), n),
        pa.repeat(pa.scalar(raw.partition, pa.int32()), n),
        pa.array(raw.offsets[rows]),
        record_times(raw.timestamps[rows]),
        pa.array([raw.keys[i] for i in rows.tolist()], pa.binary()),
    ]
    return pa.Table.from_arrays([*head, *decoded.events.columns], schema=schema_of(raw.topic))


def write(store: Store, scratch: Path, path: str, table: pa.Table) -> Piece:
    """Stores a table as one object; the scratch file is removed."""
    local = scratch / "piece.parquet"
    pq.write_table(table, local, compression="zstd", row_group_size=ROW_GROUP, write_page_index=True)
    digest = digest_of(local)
    store.put(path, local)
    local.unlink()
    return Piece(path, digest.size, digest.sha256)


def write_events(store: Store, scratch: Path, table: pa.Table, first: int, after: int) -> Piece | None:
    """Stores the events of offsets [first, after); None when there are none."""
    return _write(store, scratch, table, first, after, dead=False)


def write_dead(store: Store, scratch: Path, table: pa.Table, first: int, after: int) -> Piece | None:
    """Stores the dead letters of offsets [first, after), raw; None when there are none."""
    return _write(store, scratch, table, first, after, dead=True)


def _write(store: Store, scratch: Path, table: pa.Table, first: int, after: int, *, dead: bool) -> Piece | None:
    if not table.num_rows:
        return None
    topic, partition = table["topic"][0].as_py(), table["partition"][0].as_py()
    return write(store, scratch, piece_path(topic, partition, first, after, dead=dead), table)


def read(store: Store, piece: Piece | None, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
    """A file's rows in the columns of `schema`; those that the file does not have yet are null.

    Raises:
        MissingError: it was merged into another meanwhile: look at the index again.
        WarehouseError: it is not what was written.
    """
    wanted = schema if columns is None else pa.schema([schema.field(c) for c in columns])
    if piece is None:
        return wanted.empty_table()
    data = store.get(piece.path)
    if hashlib.sha256(data).hexdigest() != piece.sha256:
        raise WarehouseError(
            f"{store.url}/{piece.path} was changed after it was written; put it back from a copy of the store"
        )
    found = pq.read_table(pa.BufferReader(data), columns=columns)
    arrays = [
        found[f.name].cast(f.type) if f.name in found.column_names else pa.nulls(found.num_rows, f.type) for f in wanted
    ]
    return pa.Table.from_arrays(arrays, schema=wanted)


def decoded_of(
    topic: str, partition: int, first: int, after: int, events: pa.Table, dead: pa.Table, schema_ids: tuple[int, ...]
) -> DecodedBatch:
    """The batch that was archived, for offsets [first, after): what the judge takes. Values of events are None."""
    events, dead = _between(events, first, after), _between(dead, first, after)
    offsets = np.concatenate([events["offset"].to_numpy(), dead["offset"].to_numpy()])
    order = np.argsort(offsets, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    both = pa.concat_tables([events.select(["record_time", "key"]), dead.select(["record_time", "key"])]).take(
        pa.array(order)
    )
    values: list[bytes | None] = [None] * len(order)
    for at, value in zip(place[events.num_rows :].tolist(), dead["value"].to_pylist(), strict=True):
        values[at] = value
    stamps = both["record_time"].cast(pa.int64()).fill_null(-1000).to_numpy() // 1000
    raw = RawBatch(topic, partition, first, after, offsets[order], stamps, both["key"].to_pylist(), values)
    columns = contract(topic).arrow
    plain = pa.Table.from_arrays([c for name in columns.names for c in [events[name]]], schema=columns)
    return DecodedBatch(raw, plain, place[: events.num_rows], dead.select(DEAD_SCHEMA.names), schema_ids)


def _between(table: pa.Table, first: int, after: int) -> pa.Table:
    return table.filter(
        pc.and_(pc.greater_equal(table["offset"], first), pc.less(table["offset"], after))
    ).combine_chunks()
