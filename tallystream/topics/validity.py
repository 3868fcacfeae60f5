"""What a contract asks beyond Avro: the key, times, ids and amounts that can be true."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tallystream.settings import HEARTBEAT
from tallystream.topics.contracts import Contract
from tallystream.topics.letters import FIRST_TIME, LAST_TIME
from tallystream.topics.wire import Dead

EVENT_TYPES = {"orders": pa.array(["OrderCreated", "StockReserved", "PaymentCompleted", "OrderCancelled", HEARTBEAT])}
Fault = tuple[pa.Array, str, str]  # mask (null counts as a fault), reason, detail


def valid(
    table: pa.Table, rows: np.ndarray, keys: list[bytes | None], contract: Contract, dead: Dead
) -> tuple[pa.Table, np.ndarray]:
    """The events that keep the rules, and their rows; the others go to `dead` with the first rule broken.

    `keys` are the message keys of the whole batch. The key decides the partition, and duplicates are
    looked for within a partition: a copy under another key would be applied twice.
    """
    if not table.num_rows:
        return table, rows
    faulty = np.zeros(table.num_rows, bool)
    for mask, reason, detail in _faults(table, rows, keys, contract):
        wrong = mask.fill_null(True).to_numpy(zero_copy_only=False) & ~faulty
        faulty |= wrong
        dead.update(dict.fromkeys(rows[wrong].tolist(), (reason, detail)))
    if not faulty.any():
        return table, rows
    return table.filter(pa.array(~faulty)), rows[~faulty]


def _faults(table: pa.Table, rows: np.ndarray, keys: list[bytes | None], contract: Contract) -> Iterator[Fault]:
    for field in contract.arrow:
        column = table[field.name]
        if not field.nullable and column.null_count:
            yield _array(column.is_null()), "missing_field", f"{field.name} is null"
        yield from _nested_faults(field.name, column, column)
    sent = pa.array(keys if len(rows) == len(keys) else [keys[i] for i in rows.tolist()], pa.binary())
    if sent.null_count:
        yield sent.is_null(), "null_key", f"the message has no key; it must be the event's {contract.key}"
    named = _array(table[contract.key].cast(pa.binary()))
    yield pc.not_equal(sent, named), "wrong_key", f"the message's key is not the event's {contract.key}"
    times = _array(table["event_time"].cast(pa.int64()))
    ends = pc.min_max(times).as_py()
    if ends["min"] is not None and (ends["min"] < FIRST_TIME or ends["max"] > LAST_TIME):
        wrong = pc.or_(pc.less(times, FIRST_TIME), pc.greater(times, LAST_TIME))
        yield wrong, "time_out_of_range", "event_time is outside the years 1 to 9999"
    for name in ("event_id", "event_type", contract.key):
        yield _array(pc.equal(pc.binary_length(table[name]), 0)), "invalid_value", f"{name} is empty"
    known = EVENT_TYPES.get(contract.topic)
    if known is not None:
        detail = f"event_type is none of {', '.join(known.to_pylist())}"
        yield _array(pc.invert(pc.is_in(table["event_type"], value_set=known))), "invalid_value", detail


def _nested_faults(name: str, column: pa.ChunkedArray, top: pa.ChunkedArray) -> Iterator[Fault]:
    """Faults of values at any depth, told of the events they are in: negative amounts, nulls inside lists."""
    kind = column.type
    if pa.types.is_integer(kind):
        # Every integer of the contracts is an amount: cents or a quantity.
        least = pc.min(column).as_py()
        if least is not None and least < 0:
            yield _array(pc.less(column, 0).fill_null(False)), "invalid_value", f"{name} is negative"
    if not pa.types.is_list(kind):
        return
    parents, items = _array(pc.list_parent_indices(column)), pc.list_flatten(column)
    inner = [(f"{name}[]", items)]
    if pa.types.is_struct(kind.value_type):
        parts = pa.chunked_array(items.chunks, kind.value_type).flatten()
        inner += [(f"{name}[].{f.name}", part) for f, part in zip(kind.value_type, parts, strict=True)]
    for path, part in inner:
        if part.null_count:
            yield _hit(parents.filter(_array(part.is_null())), len(top)), "missing_field", f"{path} is null"
        for mask, reason, detail in _nested_faults(path, part, part):
            yield _hit(parents.filter(mask), len(top)), reason, detail


def _hit(events: pa.Array, n: int) -> pa.Array:
    mask = np.zeros(n, bool)
    mask[events.to_numpy()] = True
    return pa.array(mask)


def _array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
