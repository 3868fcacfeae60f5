"""Deltas that come together: one set of partials, of all of them, and since when its events are."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from dataflows.operators import together
from tallystream.topics.batch import DEAD_SCHEMA, LATE_SCHEMA, JudgedBatch

EVENTS = pa.table({"event_id": ["a", "b"]})


def judged(partition: int, oldest: int | None) -> JudgedBatch:
    applied = EVENTS if oldest is not None else EVENTS.slice(0, 0)
    late, dead = LATE_SCHEMA.empty_table(), DEAD_SCHEMA.empty_table()
    return JudgedBatch("clicks", partition, 5, 7, 2, 0, applied, late, dead, b"", None, None, (1,), oldest)


@pytest.mark.parametrize(
    ("oldest", "least"), [([30, 10, 20], 10), ([None, 20], 20), ([None, None], None), ([0], 0)], ids=str
)
def test_the_first_has_the_partials_of_all(oldest: list[int | None], least: int | None) -> None:
    partials: dict[str, Any] = {"v": EVENTS}
    deltas = together([judged(i, time) for i, time in enumerate(oldest)], partials, frozenset({"v"}))
    assert [(d.partition, d.first, d.next, d.consumed, d.building) for d in deltas] == [
        (i, 5, 7, 2, frozenset({"v"})) for i in range(len(oldest))
    ]
    assert [d.partials for d in deltas] == [partials] + [{}] * (len(oldest) - 1)
    assert [d.min_event_time for d in deltas] == oldest
    assert deltas[0].partials_from == least and all(d.partials_from is None for d in deltas[1:])
