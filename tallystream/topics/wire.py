"""The Confluent wire format: byte 0, four bytes of schema id, datum. JSON objects travel beside it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

HEADER = 5
JSON = -1  # the "schema id" of values that begin with `{`
Dead = dict[int, tuple[str, str]]  # row of the batch -> (reason, detail)


def zigzag(value: int) -> bytes:
    """The Avro encoding of a long."""
    n = (value << 1) ^ (value >> 63)
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


def by_schema(values: list[bytes | None], dead: Dead) -> list[tuple[int, np.ndarray]]:
    """(schema id or JSON, its rows ascending, int64) of a batch; values that name no schema go to `dead`.

    All headers are read at once. One sort deals out the rows: garbage may name a new id in each message,
    and a pass for each id would then take the square of the batch.
    """
    heads = pc.binary_slice(pa.array(values, pa.large_binary()), 0, HEADER).dictionary_encode()
    codes = heads.indices.fill_null(len(heads.dictionary)).to_numpy()
    order = np.argsort(codes, kind="stable") if len(heads.dictionary) > 1 or heads.null_count else np.arange(len(codes))
    edges = np.searchsorted(codes[order], np.arange(len(heads.dictionary) + 1))
    dead.update(dict.fromkeys(order[edges[-1] :].tolist(), ("null_value", "the message has no value (a tombstone)")))
    avro: list[tuple[int, np.ndarray]] = []
    json: list[np.ndarray] = []
    for code, head in enumerate(heads.dictionary.to_pylist()):
        rows = order[edges[code] : edges[code + 1]]
        if head[:1] == b"{":
            json.append(rows)
        elif head[:1] == b"\0" and len(head) == HEADER:
            avro.append((int.from_bytes(head[1:], "big"), rows))
        else:
            dead.update(dict.fromkeys(rows.tolist(), _no_schema(head)))
    return avro + ([(JSON, np.sort(np.concatenate(json)))] if json else [])


def _no_schema(head: bytes) -> tuple[str, str]:
    if not head:
        return "truncated", "the value is empty"
    if head[0] == 0:
        return "truncated", f"{len(head)} bytes are less than the {HEADER} of the wire header"
    return "not_avro_or_json", f"the value begins with {head[:1]!r}: neither the wire format's 0 nor a JSON object"
