"""Dead letters: the rows of a batch that are no events, with the reason and the raw bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from tallystream.topics.batch import DEAD_SCHEMA, RawBatch

# The years 1 to 9999, microseconds: what Python, DuckDB and every client can show.
FIRST_TIME, LAST_TIME = -62_135_596_800_000_000, 253_402_300_799_999_999
DETAIL = 300  # characters: a detail may quote what a stranger sent


def record_times(timestamps: np.ndarray) -> pa.Array:
    """Record timestamps (ms; negative: none) as a TIMESTAMP column; those after the year 9999 are null.

    A producer sets them freely: unchecked, a huge one would wrap around to some ordinary time.
    """
    none = (timestamps < 0) | (timestamps > LAST_TIME // 1000)
    return pa.array(np.where(none, 0, timestamps) * 1000, pa.int64(), mask=none).cast(pa.timestamp("us"))


def dead_letters(raw: RawBatch, rows: Sequence[int], reasons: Sequence[tuple[str, str]]) -> pa.Table:
    """DEAD_SCHEMA for rows of `raw`, in the order given, each with its (reason, detail)."""
    if not rows:
        return DEAD_SCHEMA.empty_table()
    at = np.asarray(rows, np.int64)
    columns = [
        pa.repeat(pa.scalar(raw.topic), len(rows)),
        pa.repeat(pa.scalar(raw.partition, pa.int32()), len(rows)),
        pa.array(raw.offsets[at]),
        pa.array([reason for reason, _ in reasons], pa.string()),
        pa.array([detail[:DETAIL] for _, detail in reasons], pa.string()),
        record_times(raw.timestamps[at]),
        pa.array([raw.keys[i] for i in rows], pa.binary()),
        pa.array([raw.values[i] for i in rows], pa.binary()),
    ]
    return pa.Table.from_arrays(columns, schema=DEAD_SCHEMA)
