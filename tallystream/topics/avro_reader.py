"""Avro data of one writer schema, read into the columns of the contract.

`pyruhvro` reads 3-6 M events a second, but ignores trailing bytes, takes any bytes for text, and names no index when
it stops: each datum gets a random long behind it that the reader must meet, the text is checked, and what fails is
bisected.
"""

from __future__ import annotations

import io
import json
import secrets
from collections.abc import Iterator
from itertools import repeat
from operator import add
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyruhvro
from fastavro._read_py import schemaless_reader as python_reader

from tallystream.topics.columns import conform, fits
from tallystream.topics.contracts import Contract
from tallystream.topics.letters import LAST_TIME
from tallystream.topics.strict import StrictWalk
from tallystream.topics.wire import HEADER, Dead, zigzag
from tallystream.topics.writer_schema import only, plain, recursive, time_unit, unreadable, vectorisable

# Events in one call: with the tail appended they stay in the cache (2 MB). All at once took 1.5 times as long.
CHUNK = 4096
TAIL = "_tallystream_tail"
# The wire header read as Avro, so that it need not be cut off: a boolean is one byte, a float four.
HEAD_FIELDS = [{"name": "_tallystream_magic", "type": "boolean"}, {"name": "_tallystream_id", "type": "float"}]


class AvroReader:
    """Reads data of one writer schema; what is wrong with the schema itself is found once."""

    def __init__(self, schema: Any, wanted: Contract):
        self._wanted = wanted
        # Random, so that nobody can send a datum followed by it; nine bytes long for every value.
        self._tail = secrets.randbits(59) | 1 << 60
        self._tail_bytes = zigzag(self._tail)
        self._fault: tuple[str, str] | None = None
        try:
            self._prepare(schema)
        except Exception as error:
            # A stranger's schema can be wrong in any way, and its data come again at each start.
            self._fault = ("incompatible_schema", f"the writer's schema is unreadable: {error!r}")

    def _prepare(self, schema: Any) -> None:
        if not isinstance(schema, dict) or schema.get("type") != "record":
            self._fault = ("incompatible_schema", "the writer's schema is no record")
            return
        theirs = {field["name"]: field["type"] for field in schema["fields"]}
        missing = [name for name in self._wanted.required if name not in theirs]
        if missing:
            self._fault = ("missing_field", f"the writer's schema has no {missing[0]}")
            return
        self._unit = time_unit(theirs["event_time"])
        if self._unit is None:
            self._fault = ("incompatible_schema", "the writer's event_time is no time in milli- or microseconds")
            return
        bare = plain(schema)
        named: dict[str, Any] = {}
        self._parsed = fastavro.parse_schema(bare, named)
        reason = unreadable(self._parsed, named)
        if reason is not None:
            self._fault = ("incompatible_schema", reason)
            return
        # The compiled one dies of a datum that is deep enough, this one says so.
        self._read_datum = python_reader if recursive(self._parsed, named) else fastavro.schemaless_reader
        self._strict = StrictWalk(self._parsed)
        headed = [*HEAD_FIELDS, *bare["fields"]]
        self._untailed = json.dumps({**bare, "fields": headed})
        self._tailed = json.dumps({**bare, "fields": [*headed, {"name": TAIL, "type": "long"}]})
        self._vectorised = vectorisable(bare)
        wanted = only(bare, pa.struct(list(self._wanted.arrow)))
        if not vectorisable(wanted):
            return  # each event then shows whether its values fit
        none = _attempt([], json.dumps(wanted))
        if isinstance(none, BaseException):
            self._fault = ("incompatible_schema", f"the writer's schema is unreadable: {none}")
            return
        have = none.schema
        for field in self._wanted.arrow:
            if field.name in theirs and not fits(have.field(field.name).type, field.type):
                self._fault = ("incompatible_schema", f"the writer's {field.name} is a {have.field(field.name).type}")

    def read(self, values: list[bytes], rows: np.ndarray, dead: Dead) -> tuple[pa.Table, np.ndarray]:
        """The readable events of `values` and their rows; the others go to `dead`. event_time may be any int64."""
        if self._fault is not None:
            dead.update(dict.fromkeys(rows.tolist(), self._fault))
            return self._wanted.arrow.empty_table(), rows[:0]
        if not self._vectorised:
            return self._one_by_one(values, rows, dead)
        parts = [part for i in range(0, len(values), CHUNK) for part in self._chunk(values, rows, i, dead)]
        if not parts:
            return self._wanted.arrow.empty_table(), rows[:0]
        read = pa.Table.from_batches([batch for batch, _ in parts]).combine_chunks()
        kept = np.concatenate([members for _, members in parts])
        good = pc.equal(read[TAIL], self._tail)
        table = self._conform(read)
        if pc.all(good).as_py():
            return table, kept
        mask = good.to_numpy()
        trailing = ("trailing_bytes", "the datum is followed by bytes that its schema does not name")
        dead.update(dict.fromkeys(kept[~mask].tolist(), trailing))
        return table.filter(good), kept[mask]

    def _chunk(
        self, values: list[bytes], rows: np.ndarray, start: int, dead: Dead
    ) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
        part = values[start : start + CHUNK]
        return self._bisect(list(map(add, part, repeat(self._tail_bytes))), rows[start : start + CHUNK], dead)

    def _bisect(self, data: list[bytes], rows: np.ndarray, dead: Dead) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
        batch = _attempt(data, self._tailed)
        if not isinstance(batch, BaseException):
            yield batch, rows
            return
        if len(data) == 1:
            # Told without the tail: a short datum may fail inside the tail.
            dead[int(rows[0])] = _reason(_attempt([data[0][: -len(self._tail_bytes)]], self._untailed))
            return
        half = len(data) // 2
        yield from self._bisect(data[:half], rows[:half], dead)
        yield from self._bisect(data[half:], rows[half:], dead)

    def _conform(self, read: pa.Table) -> pa.Table:
        """The contract's columns in its order."""
        columns = []
        for field in self._wanted.arrow:
            at = read.schema.get_field_index(field.name)
            if at < 0:
                columns.append(pa.nulls(read.num_rows, field.type))
                continue
            chunks = read.column(at).chunks
            if pa.types.is_timestamp(field.type) and self._unit != 1:
                chunks = [_micros(chunk, self._unit) for chunk in chunks]
            columns.append(pa.chunked_array([conform(chunk, field.type) for chunk in chunks], field.type))
        return pa.Table.from_arrays(columns, schema=self._wanted.arrow)

    def _one_by_one(self, values: list[bytes], rows: np.ndarray, dead: Dead) -> tuple[pa.Table, np.ndarray]:
        """The reference reader, for schemas that pyruhvro does not take: 6 k events/s."""
        events: list[dict[str, Any]] = []
        kept: list[int] = []
        for value, row in zip(values, rows.tolist(), strict=True):
            stream = io.BytesIO(value)
            stream.seek(HEADER)
            try:
                self._strict.check(value, HEADER)
                event = self._read_datum(stream, self._parsed, None)
                assert isinstance(event, dict)
                if stream.tell() != len(value):
                    dead[row] = ("trailing_bytes", "the datum is followed by bytes that its schema does not name")
                    continue
                event = {name: event.get(name) for name in self._wanted.arrow.names}
                if event["event_time"] is not None:
                    event["event_time"] = min(max(event["event_time"] * self._unit, -LAST_TIME * 2), LAST_TIME * 2)
                pa.Table.from_pylist([event], self._wanted.arrow)
            except Exception as error:
                # Whatever a reader stumbles over is the fault of this one datum.
                incompatible = isinstance(error, pa.ArrowException | AttributeError)
                dead[row] = ("incompatible_schema", str(error)) if incompatible else _reason(error)
                continue
            events.append(event)
            kept.append(row)
        return pa.Table.from_pylist(events, self._wanted.arrow), np.asarray(kept, np.int64)


def _attempt(data: list[bytes], schema: str) -> pa.RecordBatch | BaseException:
    """The data as Arrow, or why not: a Rust panic is no Exception.

    Text that is no UTF-8 would pass, and stop the sink, or the reader of a view, for good. The check is 3 % of the time.
    """
    try:
        batch = pyruhvro.deserialize_array(data, schema)
        batch.validate(full=True)
        return batch
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        return error


def _reason(error: pa.RecordBatch | BaseException) -> tuple[str, str]:
    if isinstance(error, UnicodeDecodeError | pa.ArrowInvalid):
        return "invalid_utf8", f"a text is no UTF-8: {error}"
    if isinstance(error, EOFError | IndexError) or "unexpected end of buffer" in str(error):
        return "truncated", "the datum ends before its schema does"
    return "bad_avro", f"the datum is not what its schema says: {error}"


def _micros(times: pa.Array, unit: int | None) -> pa.Array:
    """Times in another unit as microseconds; what would overflow stays outside the years that are valid."""
    bound = 2 * LAST_TIME // (unit or 1)
    return pc.multiply(pc.max_element_wise(pc.min_element_wise(times, bound), -bound), unit)
