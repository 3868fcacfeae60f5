"""Decode: bytes of a batch to Arrow columns, vectorised; what cannot be read is a dead letter.

Confluent wire format: byte 0, four bytes of schema id, Avro datum. `pyruhvro` reads 3-6 M events
a second but ignores trailing bytes and names no index when it stops, so each datum gets a magic `long`
behind it, and a batch that fails is bisected. JSON objects are read too, one by one.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyruhvro

from tallystream.errors import ContractError
from tallystream.topics.batch import DEAD_SCHEMA, DecodedBatch, RawBatch
from tallystream.topics.contracts import Contract, contract
from tallystream.topics.json_values import parse_event
from tallystream.topics.registry import Registry

HEADER = 5
TAIL = "_tallystream_tail"
TAIL_VALUE = 0x5A11E57EA3B1C0D
# Times outside the years 1 to 9999 are no TIMESTAMP that every client can show.
FIRST_TIME, LAST_TIME = -62_135_596_800_000_000, 253_402_300_799_999_999


def zigzag(value: int) -> bytes:
    """The Avro encoding of a long."""
    n = (value << 1) ^ (value >> 63)
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


TAIL_BYTES = zigzag(TAIL_VALUE)
Rows = list[int]
Dead = dict[int, tuple[str, str]]  # row -> (reason, detail)


class Decoder:
    """Decodes the batches of one topic; keeps what it learnt of each schema id."""

    def __init__(self, topic: str, registry: Registry):
        self._contract = contract(topic)
        self._registry = registry
        self._readers: dict[int, Callable[[list[bytes], Rows, Dead], tuple[pa.Table, Rows]]] = {}

    def decode(self, raw: RawBatch) -> DecodedBatch:
        """Every message ends in `events` or in `dead`, in log order.

        Raises:
            httpx.HTTPError: the registry does not answer; nothing is called dead for that.
        """
        dead: Dead = {}
        parts: list[tuple[pa.Table, Rows]] = []
        ids = []
        for head, rows in self._groups(raw.values, dead).items():
            if head is None:
                parts.append(self._json(raw.values, rows, dead))
                continue
            schema_id = int.from_bytes(head[1:], "big")
            reader = self._reader(schema_id, rows, dead)
            if reader is not None:
                ids.append(schema_id)
                whole = len(rows) == len(raw.values)
                values = raw.values if whole else [raw.values[i] for i in rows]
                parts.append(reader(values, rows, dead))  # type: ignore[arg-type]
        table, order = _in_log_order(parts, self._contract)
        table, order = self._valid(table, order, dead)
        return DecodedBatch(raw, table, order, _dead_table(raw, dead), tuple(sorted(ids)))

    def _groups(self, values: list[bytes | None], dead: Dead) -> dict[bytes | None, Rows]:
        """Rows by wire header; None: JSON."""
        heads = pc.binary_slice(pa.array(values, pa.binary()), 0, HEADER).dictionary_encode()
        codes = heads.indices.to_numpy(zero_copy_only=False)
        found: dict[bytes | None, Rows] = {}
        known = heads.dictionary.to_pylist()
        if len(known) == 1 and heads.null_count == 0:
            every: Any = [(0, list(range(len(values))))]
        else:
            every = [(c, np.flatnonzero(codes == c).tolist()) for c in range(len(known))]
            for i in np.flatnonzero(np.asarray(heads.is_null())).tolist():
                dead[i] = ("null_value", "the message has no value (a tombstone)")
        for code, rows in every:
            head = known[code]
            if head[:1] == b"{":
                found.setdefault(None, []).extend(rows)
            elif head[:1] == b"\0" and len(head) == HEADER:
                found[head] = rows
            else:
                reason = ("truncated", "shorter than the five bytes of the wire header") if head[:1] in (b"", b"\0") else (
                    "not_avro_or_json", f"begins with {head[:1]!r}, neither the wire format's 0 nor {{")
                dead.update(dict.fromkeys(rows, reason))
        if None in found:
            found[None].sort()
        return found

    def _reader(self, schema_id: int, rows: Rows, dead: Dead) -> Callable[[list[bytes], Rows, Dead], tuple[pa.Table, Rows]] | None:
        if schema_id not in self._readers:
            try:
                schema = self._registry.schema(schema_id)
            except ContractError as error:
                dead.update(dict.fromkeys(rows, ("unknown_schema", str(error))))
                return None
            subjects = self._registry.subjects(schema_id)
            if subjects and f"{self._contract.topic}-value" not in subjects:
                names = ", ".join(sorted(subjects))
                dead.update(dict.fromkeys(rows, ("wrong_subject", f"schema {schema_id} belongs to {names}")))
                return None
            self._readers[schema_id] = AvroReader(schema, self._contract)
        return self._readers[schema_id]

    def _json(self, values: list[bytes | None], rows: Rows, dead: Dead) -> tuple[pa.Table, Rows]:
        events, kept = [], []
        for i in rows:
            try:
                events.append(parse_event(self._contract, values[i] or b"", unknown=True))
                kept.append(i)
            except (ValueError, RecursionError) as error:
                dead[i] = ("bad_json", str(error)[:300])
        return pa.Table.from_pylist(events, schema=self._contract.arrow), kept

    def _valid(self, table: pa.Table, rows: np.ndarray, dead: Dead) -> tuple[pa.Table, np.ndarray]:
        times = table["event_time"].cast(pa.int64()).to_numpy()
        wrong_time = (times < FIRST_TIME) | (times > LAST_TIME)
        no_id = pc.equal(pc.binary_length(table["event_id"]), 0).to_numpy(zero_copy_only=False).astype(bool)
        if not (wrong_time.any() or no_id.any()):
            return table, rows
        for i in rows[wrong_time].tolist():
            dead[i] = ("time_out_of_range", "event_time is outside the years 1 to 9999")
        for i in rows[no_id & ~wrong_time].tolist():
            dead[i] = ("invalid_value", "event_id is empty")
        good = ~(wrong_time | no_id)
        return table.filter(pa.array(good)), rows[good]


class AvroReader:
    """Reads data of one writer schema into the columns of the contract."""

    def __init__(self, schema: dict[str, Any], wanted: Contract):
        self._schema = schema
        self._contract = wanted
        self._missing = [n for n in wanted.required if n not in {f["name"] for f in schema.get("fields", [])}]
        tailed = {**schema, "fields": [*schema.get("fields", []), {"name": TAIL, "type": "long"}]}
        self._tailed = json.dumps(tailed)
        self._parsed = fastavro.parse_schema({**schema})
        try:
            pyruhvro.deserialize_array([], self._tailed)
            self._vectorised = True
        except BaseException as error:  # a Rust panic is no Exception
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            self._vectorised = False

    def __call__(self, values: list[bytes], rows: Rows, dead: Dead) -> tuple[pa.Table, Rows]:
        """The readable events of `values` and their rows; the others go to `dead`."""
        if self._missing:
            dead.update(dict.fromkeys(rows, ("missing_field", f"the writer's schema has no {self._missing[0]}")))
            return self._contract.arrow.empty_table(), []
        if not self._vectorised:
            return self._one_by_one(values, rows, dead)
        data = [value[HEADER:] + TAIL_BYTES for value in values]
        parts: list[tuple[pa.RecordBatch, Rows]] = []
        self._bisect(data, rows, parts, dead)
        tables, kept = [], []
        for batch, members in parts:
            table, good = self._checked(batch, members, dead)
            tables.append(table)
            kept += good
        return (pa.concat_tables(tables) if tables else self._contract.arrow.empty_table()), kept

    def _bisect(self, data: list[bytes], rows: Rows, parts: list[tuple[pa.RecordBatch, Rows]], dead: Dead) -> None:
        try:
            parts.append((pyruhvro.deserialize_array(data, self._tailed), rows))
        except BaseException as error:  # a Rust panic is no Exception
            if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
                raise
            if len(data) == 1:
                dead[rows[0]] = ("invalid_utf8" if "utf" in str(error).lower() else "truncated", str(error)[:300])
                return
            half = len(data) // 2
            self._bisect(data[:half], rows[:half], parts, dead)
            self._bisect(data[half:], rows[half:], parts, dead)

    def _checked(self, batch: pa.RecordBatch, rows: Rows, dead: Dead) -> tuple[pa.Table, Rows]:
        good = pc.fill_null(pc.equal(batch.column(TAIL), TAIL_VALUE), False)
        table = self._conform(batch)
        if pc.all(good).as_py() is not False:
            return table, rows
        mask = good.to_numpy(zero_copy_only=False).astype(bool)
        for i in np.flatnonzero(~mask).tolist():
            dead[rows[i]] = ("trailing_bytes", "the datum is followed by bytes that its schema does not name")
        return table.filter(good), [rows[i] for i in np.flatnonzero(mask).tolist()]

    def _conform(self, batch: pa.RecordBatch) -> pa.Table:
        """The contract's columns in its order; fields it does not name are left out."""
        columns = []
        for field in self._contract.arrow:
            at = batch.schema.get_field_index(field.name)
            column = pa.nulls(len(batch), field.type) if at < 0 else batch.column(at)
            columns.append(column if column.type == field.type else column.cast(field.type))
        return pa.Table.from_arrays(columns, schema=self._contract.arrow)

    def _one_by_one(self, values: list[bytes], rows: Rows, dead: Dead) -> tuple[pa.Table, Rows]:
        events, kept = [], []
        for value, row in zip(values, rows, strict=True):
            stream = io.BytesIO(value[HEADER:])
            try:
                event: Any = fastavro.schemaless_reader(stream, self._parsed, None)
                if stream.tell() != len(value) - HEADER:
                    dead[row] = ("trailing_bytes", "the datum is followed by bytes that its schema does not name")
                    continue
                line = pa.Table.from_pylist([{n: event.get(n) for n in self._contract.arrow.names}], schema=None)
                columns = [line[f.name].cast(f.type) for f in self._contract.arrow]
                events.append(pa.Table.from_arrays(columns, schema=self._contract.arrow))
                kept.append(row)
            except (EOFError, ValueError, IndexError, TypeError, OverflowError, MemoryError, AttributeError, pa.ArrowException) as error:
                dead[row] = ("truncated", f"{type(error).__name__}: {error}"[:300])
        return (pa.concat_tables(events) if events else self._contract.arrow.empty_table()), kept


def _in_log_order(parts: list[tuple[pa.Table, Rows]], wanted: Contract) -> tuple[pa.Table, np.ndarray]:
    if not parts:
        return wanted.arrow.empty_table(), np.zeros(0, np.int64)
    table = pa.concat_tables([table for table, _ in parts]).combine_chunks()
    rows = np.fromiter((i for _, members in parts for i in members), np.int64, table.num_rows)
    if len(parts) > 1:
        order = np.argsort(rows, kind="stable")
        table, rows = table.take(pa.array(order)), rows[order]
    return table, rows


def record_times(timestamps: np.ndarray) -> pa.Array:
    """Record timestamps (ms, -1: none) as a TIMESTAMP column."""
    return pa.array(timestamps * 1000, pa.int64(), mask=timestamps < 0).cast(pa.timestamp("us"))


def dead_rows(raw: RawBatch, rows: Rows, reasons: list[tuple[str, str]]) -> pa.Table:
    """Dead letters of some rows of a batch, each with its reason and detail."""
    at = np.asarray(rows, np.int64)
    columns = [
        pa.array([raw.topic] * len(rows), pa.string()),
        pa.array([raw.partition] * len(rows), pa.int32()),
        pa.array(raw.offsets[at]),
        pa.array([reason for reason, _ in reasons], pa.string()),
        pa.array([detail for _, detail in reasons], pa.string()),
        record_times(raw.timestamps[at]),
        pa.array([raw.keys[i] for i in rows], pa.binary()),
        pa.array([raw.values[i] for i in rows], pa.binary()),
    ]
    return pa.Table.from_arrays(columns, schema=DEAD_SCHEMA)


def _dead_table(raw: RawBatch, dead: Dead) -> pa.Table:
    rows = sorted(dead)
    return dead_rows(raw, rows, [dead[i] for i in rows])
