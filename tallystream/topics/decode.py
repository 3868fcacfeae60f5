"""Decode: bytes of a batch to Arrow columns, vectorised; what cannot be read is a dead letter.

Every message ends in exactly one of two tables, whatever bytes it holds: an event that keeps the contract,
or a dead letter with a short reason. Reasons: null_value, truncated, trailing_bytes, bad_avro, invalid_utf8,
not_avro_or_json, bad_json, unknown_schema, wrong_subject, incompatible_schema, missing_field, null_key,
wrong_key, time_out_of_range, invalid_value.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tallystream.errors import ContractError
from tallystream.topics.avro_reader import AvroReader
from tallystream.topics.batch import DecodedBatch, RawBatch
from tallystream.topics.contracts import contract
from tallystream.topics.json_values import EventError, parse_event
from tallystream.topics.letters import dead_letters
from tallystream.topics.registry import Registry
from tallystream.topics.validity import valid
from tallystream.topics.wire import JSON, Dead, by_schema

UNKNOWN_IDS = 4096  # remembered at most: garbage names ids at random, and memory must stay bounded
Refusal = tuple[str, str]  # reason and detail for every message of a schema


class Decoder:
    """Decodes the batches of one topic; keeps what it learnt of each schema id."""

    def __init__(self, topic: str, registry: Registry):
        self._contract = contract(topic)
        self._registry = registry
        self._readers: dict[int, AvroReader] = {}
        self._refused: dict[int, Refusal] = {}

    def decode(self, raw: RawBatch) -> DecodedBatch:
        """Events in log order and dead letters in log order: together, every message of the batch once.

        Raises:
            BrokerError: the registry does not answer; nothing is called dead for that.
            StoppedError: asked to stop while waiting for it.
        """
        dead: Dead = {}
        parts: list[tuple[pa.Table, np.ndarray]] = []
        ids = []
        for schema_id, rows in by_schema(raw.values, dead):
            if schema_id == JSON:
                parts.append(self._json(raw.values, rows, dead))
                continue
            reader = self._reader(schema_id)
            if isinstance(reader, tuple):
                dead.update(dict.fromkeys(rows.tolist(), reader))
                continue
            ids.append(schema_id)
            values = raw.values if len(rows) == len(raw.values) else [raw.values[i] for i in rows.tolist()]
            parts.append(reader.read(values, rows, dead))  # type: ignore[arg-type]  # rows with a header have a value
        table, rows = self._in_log_order(parts)
        table, rows = valid(table, rows, raw.keys, self._contract, dead)
        at = sorted(dead)
        return DecodedBatch(raw, table, rows, dead_letters(raw, at, [dead[i] for i in at]), tuple(sorted(ids)))

    def _reader(self, schema_id: int) -> AvroReader | Refusal:
        """The reader of a schema, or why there is none. An id once refused stays so: redrive reads it again."""
        if schema_id in self._readers:
            return self._readers[schema_id]
        if schema_id not in self._refused:
            refusal = self._refusal(schema_id)
            if refusal is None:
                self._readers[schema_id] = AvroReader(self._registry.schema(schema_id), self._contract)
                return self._readers[schema_id]
            if len(self._refused) >= UNKNOWN_IDS:
                self._refused.clear()
            self._refused[schema_id] = refusal
        return self._refused[schema_id]

    def _refusal(self, schema_id: int) -> Refusal | None:
        try:
            self._registry.schema(schema_id)
        except ContractError as error:
            return "unknown_schema", str(error)
        subjects = self._registry.subjects(schema_id)
        if subjects and f"{self._contract.topic}-value" not in subjects:
            return "wrong_subject", f"schema {schema_id} belongs to {', '.join(sorted(subjects))}"
        return None

    def _json(self, values: list[bytes | None], rows: np.ndarray, dead: Dead) -> tuple[pa.Table, np.ndarray]:
        events, kept = [], []
        for row in rows.tolist():
            try:
                events.append(parse_event(self._contract, values[row] or b"", unknown=True))
                kept.append(row)
            except EventError as error:
                dead[row] = (error.reason, str(error))
        return pa.Table.from_pylist(events, schema=self._contract.arrow), np.asarray(kept, np.int64)

    def _in_log_order(self, parts: list[tuple[pa.Table, np.ndarray]]) -> tuple[pa.Table, np.ndarray]:
        if len(parts) == 1:
            # Bisected pieces come in order too.
            return parts[0]
        if not parts:
            return self._contract.arrow.empty_table(), np.zeros(0, np.int64)
        table = pa.concat_tables([table for table, _ in parts])
        rows = np.concatenate([members for _, members in parts])
        order = np.argsort(rows)
        return table.take(pa.array(order)).combine_chunks(), rows[order]
