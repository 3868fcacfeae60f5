"""The source reads on until its share of the epoch is full, and then when the epoch has ended."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dataflows import source


@pytest.fixture
def partition(monkeypatch: pytest.MonkeyPatch) -> source.PartitionSource:
    """A partition whose log gives batches of four messages of ten bytes for ever."""
    batch = SimpleNamespace(first=0, values=[b"0123456789", None, b"0123456789", b"0123456789"])
    lane = SimpleNamespace(done=False, take=lambda: batch)
    monkeypatch.setattr(source, "PartitionReader", lambda *_: None)
    monkeypatch.setattr(source, "READING", SimpleNamespace(add=lambda *_: lane))
    monkeypatch.setattr(source, "EPOCH_MESSAGES", 10)
    monkeypatch.setattr(source, "EPOCH_BYTES", 1000)
    start: Any = SimpleNamespace(
        topic="orders", partition=0, live_from=0, build_from=0, until=None, building=frozenset(), stop_after=None
    )
    job: Any = SimpleNamespace(kafka={}, rests=True, check_broker=lambda: None)
    return source.PartitionSource(job, start)


def batches(partition: Any) -> int:
    """How many it gives before it gives none."""
    given = 0
    while list(partition.next_batch()):
        given += 1
        assert given < 1000
    return given


def test_an_epoch_has_a_share_of_messages(partition: Any) -> None:
    assert batches(partition) == 3
    # Asked again soon, and not in a loop.
    assert partition.next_awake() is not None
    assert batches(partition) == 0
    partition.snapshot()
    assert batches(partition) == 3


def test_an_epoch_has_a_share_of_bytes(partition: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "EPOCH_MESSAGES", 10**6)
    monkeypatch.setattr(source, "EPOCH_BYTES", 100)
    assert batches(partition) == 4
    partition.snapshot()
    assert batches(partition) == 4
