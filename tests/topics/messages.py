"""Messages as a producer writes them, built by the reference encoder, for the tests of decode and judge."""

import copy
import io
from collections.abc import Callable
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa

from tallystream.errors import ContractError
from tallystream.topics.batch import RawBatch
from tallystream.topics.contracts import contract
from tallystream.topics.decode import Decoder
from tallystream.topics.registry import FolderRegistry

T0 = 1_570_000_000_000_000  # 2019-10-02, microseconds


def bare(schema: Any) -> Any:
    """The schema without logical types (fastavro takes and gives times as integers) and defaults (no datum has them)."""
    if isinstance(schema, dict):
        return {k: bare(v) for k, v in schema.items() if k not in ("logicalType", "default")}
    return [bare(v) for v in schema] if isinstance(schema, list) else schema


def click(i: int = 0, **changes: Any) -> dict[str, Any]:
    event = {
        "event_id": f"c{i}",
        "event_type": "view",
        "event_time": T0 + i * 1000,
        "user_id": f"u{i % 7}",
        "session_id": None if i % 3 else f"s{i}",
        "product_id": f"p{i}",
        "category": None,
        "brand": "Ω\0brand",
        "url": "https://shop.example/" + "x" * (i % 90),
        "price_cents": i * 77 if i % 2 else None,
    }
    return event | changes


def order(i: int = 0, **changes: Any) -> dict[str, Any]:
    event = {
        "event_id": f"o{i}",
        "event_type": "OrderCreated",
        "event_time": T0 + i * 1000,
        "order_id": f"n{i % 5}",
        "customer_id": "u1",
        "items": [{"product_id": f"p{k}", "quantity": k + 1, "unit_price_cents": 100 + k} for k in range(i % 4)],
        "total_cents": 2**40 + i,
        "currency": "EUR",
    }
    return event | changes


MAKE = {"clicks": click, "orders": order}


def changed(topic: str, change: Callable[[list[dict[str, Any]]], Any]) -> dict[str, Any]:
    """The contract's schema after an edit of its fields."""
    schema = copy.deepcopy(contract(topic).schema)
    change(schema["fields"])
    return schema


def datum(schema: Any, event: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(bare(schema)), event)
    return out.getvalue()


def wire(topic: str, event: dict[str, Any], schema: Any = None, schema_id: int | None = None) -> bytes:
    c = contract(topic)
    return b"\0" + (schema_id or c.schema_id).to_bytes(4, "big") + datum(schema or c.schema, event)


def raw(topic: str, values: list[bytes | None], keys: list[bytes | None], timestamps: Any = None) -> RawBatch:
    n = len(values)
    stamps = np.full(n, -1, np.int64) if timestamps is None else np.asarray(timestamps, np.int64)
    return RawBatch(topic, 3, 1000, 1000 + 2 * n, np.arange(1000, 1000 + 2 * n, 2), stamps, keys, values)


def raw_of(topic: str, events: list[dict[str, Any]], **how: Any) -> RawBatch:
    return raw(topic, [wire(topic, e, **how) for e in events], [e[contract(topic).key].encode() for e in events])


def table(topic: str, events: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(events, schema=contract(topic).arrow)


class Schemas:
    """A registry of these schemas, all of subject `{topic}-value`, beside the folder's own."""

    def __init__(self, topic: str, more: dict[int, Any]):
        self._topic, self._more, self._folder = topic, more, FolderRegistry()
        self.asked: list[int] = []

    def schema(self, schema_id: int) -> Any:
        self.asked.append(schema_id)
        if isinstance(self._more.get(schema_id), Exception):
            raise self._more[schema_id]
        return self._more[schema_id] if schema_id in self._more else self._folder.schema(schema_id)

    def subjects(self, schema_id: int) -> frozenset[str]:
        return frozenset([f"{self._topic}-value"]) if schema_id in self._more else self._folder.subjects(schema_id)

    def id_for(self, topic: str) -> int:
        raise ContractError("not asked here")


def decoder(topic: str, more: dict[int, Any] | None = None) -> Decoder:
    return Decoder(topic, Schemas(topic, more or {}))


def reasons(
    topic: str, event: Any, key: bytes | None = None, more: dict[int, Any] | None = None, **how: Any
) -> list[str]:
    """Decodes one message, an event or its bytes, under its own key or `key`: the reason it is dead for, or none."""
    value = event if isinstance(event, bytes) else wire(topic, event, **how)
    name = contract(topic).key
    right = event[name].encode() if isinstance(event, dict) and event.get(name) else b"u0"
    out = decoder(topic, more).decode(raw(topic, [value], [right if key is None else key]))
    assert out.events.num_rows + out.dead.num_rows == 1
    found: list[str] = out.dead["reason"].to_pylist()
    return found
