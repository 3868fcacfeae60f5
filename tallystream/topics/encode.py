"""Encode: Arrow columns of a contract to messages in the Confluent wire format, vectorised.

Byte 0, four bytes of schema id, Avro datum. `pyruhvro` encodes 3.8 M events a second on one core,
where `fastavro` one by one takes 60-100 k: a load generator must be faster than what it loads.
"""

from __future__ import annotations

import json

import pyarrow as pa
import pyruhvro

from tallystream.errors import ContractError
from tallystream.topics.contracts import Contract


def wire_header(schema_id: int) -> bytes:
    """The five bytes before every datum."""
    return b"\0" + schema_id.to_bytes(4, "big")


class Encoder:
    """Encodes events of one topic under one schema id."""

    def __init__(self, contract: Contract, schema_id: int):
        self.contract = contract
        self._schema = json.dumps(contract.schema)
        self._header = wire_header(schema_id)

    def values(self, events: pa.Table) -> list[bytes]:
        """One message a row.

        Raises:
            ContractError: the columns are not the contract's, or a required one holds a null:
                pyruhvro would write bytes that no reader can frame.
        """
        if events.schema.names != self.contract.arrow.names or events.schema.types != self.contract.arrow.types:
            raise ContractError(f"the columns {events.schema.names} are not those of topic {self.contract.topic}")
        for name in self.contract.required:
            if events[name].null_count:
                raise ContractError(
                    f"{self.contract.topic}: {name} is required and holds {events[name].null_count} nulls"
                )
        header = self._header
        data: list[bytes] = []
        for batch in events.combine_chunks().to_batches():
            for part in pyruhvro.serialize_record_batch(batch, self._schema, 1):
                data += [header + datum for datum in part.to_pylist()]
        return data

    def keys(self, events: pa.Table) -> list[bytes | None]:
        """The message keys: one key's events stay in one partition, in order, and so do copies of an event."""
        keys: list[bytes | None] = events[self.contract.key].cast(pa.binary()).to_pylist()
        return keys
